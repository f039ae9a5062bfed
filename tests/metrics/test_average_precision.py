"""Average precision of a worked example, and next to scikit-learn's precision-recall curve."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, precision_recall_curve

from flax_resnet.metrics.average_precision import average_precision, mean_average_precision


def test_a_worked_example():
    # Ranked: yes, no, yes, no, no, yes. Precision at the three yes: 1, 2/3, 1/2.
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    assert average_precision(scores, [1, 0, 1, 0, 0, 1]) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    # no, yes, yes: precision 1/2 at the first yes is lifted to the 2/3 of the second.
    assert average_precision([3, 2, 1], [0, 1, 1]) == pytest.approx(2 / 3)


@settings(database=None, deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12))
def test_it_is_the_area_under_scikit_learns_curve_made_monotone(seed, size, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, size)  # with ties
    truth = rng.random(size) < 0.4
    truth[rng.integers(size)] = True
    precision, recall, _ = precision_recall_curve(truth, scores)  # recall falls from 1 to 0
    area = -sum(
        (after - before) * precision[: index + 1].max()
        for index, (before, after) in enumerate(itertools.pairwise(recall))
    )
    found = average_precision(scores, truth)
    assert found == pytest.approx(area)
    shuffled = rng.permutation(size)
    assert average_precision(scores[shuffled], truth[shuffled]) == pytest.approx(found)
    assert average_precision(np.exp(scores / 3.0), truth) == pytest.approx(found)


@settings(database=None, deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_it_is_scikit_learns_average_precision_where_precision_never_rises(images):
    """scikit-learn's is the area under the curve as it is; VOC's is that of its envelope."""
    scores, truth = map(np.array, zip(*images, strict=True))
    found = average_precision(scores, truth)
    if not truth.any():
        assert math.isnan(found)
        return
    theirs = average_precision_score(truth, scores)
    precision, _, _ = precision_recall_curve(truth, scores)
    assert found >= theirs - 1e-12
    if (np.diff(precision[:-1]) >= 0).all():  # from low thresholds to high ones
        assert found == pytest.approx(theirs)


@settings(database=None, deadline=None, max_examples=50)
@given(st.data())
def test_the_mean_is_that_of_scikit_learns_curves(data):
    count, classes = data.draw(st.integers(1, 15)), data.draw(st.integers(1, 4))
    scores = data.draw(arrays(np.float32, (count, classes), elements=st.integers(-3, 3)))
    labels = data.draw(arrays(np.int8, (count, classes), elements=st.integers(0, 1)))
    areas = []
    for score, truth in zip(scores.T, labels.T, strict=True):
        if truth.any():
            precision, recall, _ = precision_recall_curve(truth, score)
            envelope = np.maximum.accumulate(precision)[:-1]  # recall falls from 1 to 0
            areas.append(float(-np.diff(recall) @ envelope))
    found = mean_average_precision(scores, labels)
    assert found == pytest.approx(np.mean(areas)) if areas else math.isnan(found)


def test_the_mean_is_over_classes_that_are_shown():
    scores = np.array([[2.0, 0.1, 5.0], [1.0, 0.9, 7.0], [0.0, 0.5, 6.0]])
    labels = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0]], np.float32)
    assert mean_average_precision(scores, labels) == pytest.approx((1 + 1 / 2) / 2)
    assert math.isnan(mean_average_precision(scores, np.zeros((3, 3))))
