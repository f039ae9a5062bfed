"""Evaluation of images with any number of classes each."""

import math

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import precision_recall_fscore_support

from flax_resnet.metrics import evaluate_multi_label

# Images by score for "cat": right, wrong, right; "dog": all wrong but the last; no "emu".
LOGITS = np.array([[3, 0, -1], [2, 1, -2], [1, -5, -3]], np.float32)
LABELS = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], np.float32)
CLASSES = ("cat", "dog", "emu")


def test_scores_are_those_counted_by_hand():
    found = evaluate_multi_label("zoo", LOGITS, LABELS, CLASSES)
    assert found.count == 3 and found.support == (2, 1, 0)
    assert found.average_precision == (pytest.approx((1 + 2 / 3) / 2), pytest.approx(1 / 3), None)
    assert found.mean_average_precision == pytest.approx((5 / 6 + 1 / 3) / 2)
    expected = optax.sigmoid_binary_cross_entropy(LOGITS, LABELS).mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-6)


@settings(database=None, deadline=None, max_examples=100)
@given(st.data())
def test_scores_agree_with_scikit_learn(data):
    """With equal logits, classes that no image shows, and classes that are never predicted."""
    count, classes = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    logits = data.draw(arrays(np.float32, (count, classes), elements=st.integers(-2, 2)))
    labels = data.draw(arrays(np.int8, (count, classes), elements=st.integers(0, 1)))
    found = evaluate_multi_label("zoo", logits, labels, "abcd"[:classes])
    for index in range(classes):
        truth, predicted = labels[:, index], logits[:, index] > 0
        expected = precision_recall_fscore_support(
            truth, predicted, labels=[1], zero_division=0, average=None
        )
        for name, (value,) in zip(("precision", "recall", "f1", "support"), expected, strict=True):
            assert getattr(found, name)[index] == pytest.approx(value), name
        assert (found.average_precision[index] is None) == (not truth.any())


def test_no_class_shown_has_no_precision():
    found = evaluate_multi_label("zoo", LOGITS, np.zeros_like(LABELS), CLASSES)
    assert found.mean_average_precision is None and not math.isnan(found.loss)
