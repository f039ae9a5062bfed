"""Calibration and evaluation figures, by hand and beside scipy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from flax_resnet.metrics.calibration import (
    calibration_error,
    cross_entropy,
    fit_temperature,
    softmax,
)
from flax_resnet.report import evaluate_logits
from flax_resnet.report.evaluation import read_evaluation, write_evaluation


def test_calibration_error_by_hand():
    """Bins (0.6, 0.6667] and (0.8667, 0.9333] of 15: |1/2 - 0.65| and |2/2 - 0.9|, by halves."""
    probabilities = np.array([[0.65, 0.35], [0.35, 0.65], [0.9, 0.1], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1])
    expected = 0.5 * abs(0.5 - 0.65) + 0.5 * abs(1.0 - 0.9)
    assert calibration_error(probabilities, labels) == pytest.approx(expected)


def test_certainty_that_is_right_is_calibrated():
    assert calibration_error(np.eye(3), np.arange(3)) == 0


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_of_drawn_labels_is_found(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 4))
    drawn = (logits / true + rng.gumbel(size=logits.shape)).argmax(1)  # labels from softmax
    assert fit_temperature(logits, drawn) == pytest.approx(true, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 40), st.floats(0.1, 1e4))
def test_figures_agree_with_scikit_learn(seed, classes, count, scale):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(0, 1, (count, classes)) * scale).astype(np.float32)
    labels = rng.integers(0, classes, count)
    names = [f"class {i}" for i in range(classes)]
    got = evaluate_logits("random", logits, labels, names)
    every = range(classes)
    np.testing.assert_array_equal(
        got.confusion, confusion_matrix(labels, logits.argmax(1), labels=every)
    )
    expected = -log_softmax(logits.astype(np.float64), 1)[np.arange(count), labels].mean()
    assert got.loss == pytest.approx(expected, rel=1e-9)
    if classes > 5:
        top5 = top_k_accuracy_score(labels, logits, k=5, labels=every)
        assert got.top5 == pytest.approx(top5)
    assert 0 <= got.calibrated_error <= 1
    assert cross_entropy(logits, labels, got.temperature) <= got.loss + 1e-6


def test_loss_is_scikit_learns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 1, (50, 3)), rng.integers(0, 3, 50)
    expected = log_loss(labels, softmax(logits), labels=range(3))
    assert cross_entropy(logits, labels) == pytest.approx(expected)


def test_an_evaluation_is_written_and_read(tmp_path):
    logits, labels = np.eye(3) * 4, np.array([0, 1, 1])
    made = evaluate_logits("three", logits, labels, ("a", "b", "ç"), (logits, labels))
    write_evaluation(tmp_path / "e.json", made)
    assert read_evaluation(tmp_path / "e.json") == made
    assert read_evaluation(tmp_path / "none.json") is None
