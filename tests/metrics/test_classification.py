"""Evaluation of images with one class each, next to scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from flax_resnet.metrics import evaluate_logits, mean_softmax_cross_entropy


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 40), st.floats(0.1, 1e4))
def test_scores_agree_with_scikit_learn(seed, classes, count, scale):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(0, 1, (count, classes)) * scale).astype(np.float32)
    labels = rng.integers(0, classes, count)
    names = [f"class {i}" for i in range(classes)]
    got = evaluate_logits("random", logits, labels, names)
    every = range(classes)
    predicted = logits.argmax(1)
    np.testing.assert_array_equal(got.confusion, confusion_matrix(labels, predicted, labels=every))
    expected = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(getattr(got, name), values, err_msg=name)
    macro = precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    for name, value in zip(("precision", "recall", "f1"), macro, strict=False):
        np.testing.assert_allclose(got.macro[name], value, err_msg=name)
    assert got.top1 == pytest.approx((predicted == labels).mean())
    expected = -log_softmax(logits.astype(np.float64), 1)[np.arange(count), labels].mean()
    assert got.loss == pytest.approx(expected, rel=1e-9)
    if classes > 5:
        top5 = top_k_accuracy_score(labels, logits, k=5, labels=every)
        assert got.top5 == pytest.approx(top5)
    else:
        assert got.top5 == 1
    assert 0 <= got.calibrated_error <= 1
    assert mean_softmax_cross_entropy(logits, labels, got.temperature) <= got.loss + 1e-6


@settings(max_examples=50, deadline=None, database=None)
@given(st.data())
def test_ties_and_absent_classes_agree_with_scikit_learn(data):
    """Of equal logits the first is the prediction, and classes may lack images or predictions."""
    classes, count = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 12))
    logits = data.draw(arrays(np.float32, (count, classes), elements=st.integers(0, 2)))
    labels = data.draw(arrays(np.int64, count, elements=st.integers(0, classes - 1)))
    predicted = [max(range(classes), key=row.__getitem__) for row in logits.tolist()]
    got = evaluate_logits("tied", logits, labels, "abcde"[:classes])
    every = range(classes)
    np.testing.assert_array_equal(got.confusion, confusion_matrix(labels, predicted, labels=every))
    expected = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(getattr(got, name), values, err_msg=name)
    assert got.macro["f1"] == pytest.approx(
        f1_score(labels, predicted, average="macro", zero_division=0)
    )
    chances = softmax(logits.astype(np.float64), 1)
    correct, confidence = np.equal(predicted, labels), chances.max(1)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    inside = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1], right=True)
    sizes = np.bincount(inside, minlength=15)
    weighted = np.abs(accuracy - mean) @ sizes[sizes > 0] / count
    assert got.calibration_error == pytest.approx(weighted)


def test_the_temperature_is_fitted_on_validation_images_if_there_are_some():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    sure = 10 * np.eye(3)[labels]  # every prediction is correct: a low temperature
    alone = evaluate_logits("three", logits, labels, "abc")
    other = evaluate_logits("three", logits, labels, "abc", (sure, labels))
    assert alone.temperature_from == "the same images" and other.temperature_from == "validation"
    assert other.temperature < 1 < alone.temperature
    assert alone.calibration_error == other.calibration_error
