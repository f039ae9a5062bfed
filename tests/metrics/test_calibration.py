"""Calibration error by hand and by definition, and the temperature of labels drawn at one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from flax_resnet.metrics import (
    expected_calibration_error,
    fit_temperature,
    mean_softmax_cross_entropy,
    probabilities_of,
    reliability_bins,
)


def test_calibration_error_by_hand():
    """Bins (0.6, 0.6667] and (0.8667, 0.9333] of 15: |1/2 - 0.65| and |2/2 - 0.9|, by halves."""
    probabilities = np.array([[0.65, 0.35], [0.35, 0.65], [0.9, 0.1], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1])
    expected = 0.5 * abs(0.5 - 0.65) + 0.5 * abs(1.0 - 0.9)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_certainty_that_is_right_is_calibrated():
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0


@settings(database=None, deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(2, 6), st.integers(1, 20))
def test_calibration_error_by_its_definition(seed, count, num_classes, bins):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(num_classes) / 2, count)
    labels = rng.integers(0, num_classes, count)
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    expected = 0.0
    for edge in range(bins):
        inside = (confidence > edge / bins) & (confidence <= (edge + 1) / bins)
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            expected += inside.mean() * gap
    found = expected_calibration_error(probabilities, labels, bins)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_of_drawn_labels_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 4))
    drawn = (logits / true + rng.gumbel(size=logits.shape)).argmax(1)  # labels from softmax
    assert fit_temperature(logits, drawn) == pytest.approx(true, rel=0.05)


def test_no_other_temperature_has_a_lower_loss():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(0, 4, (300, 5)), rng.integers(0, 5, 300)
    labels[:200] = logits[:200].argmax(1)
    best = mean_softmax_cross_entropy(logits, labels, fit_temperature(logits, labels))
    for temperature in np.geomspace(1 / 20, 20, 50):
        assert best <= mean_softmax_cross_entropy(logits, labels, temperature) + 1e-6
    np.testing.assert_allclose(probabilities_of(logits, temperature=20.0).sum(1), 1)


@settings(database=None, deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(2, 6))
def test_reliability_agrees_with_scikit_learn(seed, count, num_classes):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(num_classes) / 2, count)
    labels = rng.integers(0, num_classes, count)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    counts, confidences, hits = reliability_bins(confidence, correct)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    full = counts > 0
    np.testing.assert_allclose(hits[full] / counts[full], accuracy)
    np.testing.assert_allclose(confidences[full] / counts[full], mean)
    weighted = np.abs(accuracy - mean) @ counts[full] / count
    assert expected_calibration_error(probabilities, labels) == pytest.approx(weighted)
