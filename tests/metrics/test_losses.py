"""Losses in JAX next to the NumPy versions for whole sets, SciPy and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax
from sklearn.metrics import log_loss

from flax_resnet.metrics import (
    LOSSES,
    mean_loss,
    mean_sigmoid_cross_entropy,
    mean_softmax_cross_entropy,
    probabilities_of,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    targets_of,
)

# Few shapes, because JAX compiles for each.
sizes = (
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 40]),
    st.sampled_from([2, 7]),
    st.floats(0.1, 100),
)


def draw(seed, count, num_classes, scale):
    """Random logits, a class for each image, and any number of classes for each image."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(0, 1, (count, num_classes)) * scale).astype(np.float32)
    several = (rng.random((count, num_classes)) < 0.4).astype(np.float32)
    return logits, rng.integers(0, num_classes, count), several


@settings(database=None, deadline=None, max_examples=40)
@given(*sizes)
def test_both_versions_of_softmax_cross_entropy_agree(seed, count, num_classes, scale):
    logits, labels, _ = draw(seed, count, num_classes, scale)
    found = softmax_cross_entropy(logits, targets_of(labels, num_classes, jnp.float32))
    assert found.shape == (count,)
    mean = mean_softmax_cross_entropy(logits, labels)
    assert float(found.mean()) == pytest.approx(mean, rel=1e-4, abs=1e-5)
    expected = -log_softmax(logits.astype(np.float64), 1)[np.arange(count), labels].mean()
    assert mean == pytest.approx(expected, rel=1e-12)


@settings(database=None, deadline=None, max_examples=40)
@given(*sizes)
def test_both_versions_of_sigmoid_cross_entropy_agree(seed, count, num_classes, scale):
    logits, _, labels = draw(seed, count, num_classes, scale)
    found = sigmoid_cross_entropy(logits, targets_of(labels, num_classes, jnp.float32))
    assert found.shape == (count,)
    mean = mean_sigmoid_cross_entropy(logits, labels)
    assert float(found.mean()) == pytest.approx(mean, rel=1e-4, abs=1e-5)
    if scale < 5:  # beyond, 1 - p is rounded to 0
        p = expit(logits.astype(np.float64))
        expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
        assert mean == pytest.approx(expected, rel=1e-6)


def test_the_mean_loss_is_scikit_learns():
    logits, labels, _ = draw(0, 50, 3, 1)
    expected = log_loss(labels, probabilities_of(logits), labels=range(3))
    assert mean_softmax_cross_entropy(logits, labels) == pytest.approx(expected)


def test_probabilities_by_loss_and_temperature():
    logits = np.log(np.array([[1.0, 3.0]]))
    np.testing.assert_allclose(probabilities_of(logits), [[1 / 4, 3 / 4]])
    np.testing.assert_allclose(probabilities_of(logits, "sigmoid"), [[1 / 2, 3 / 4]])
    np.testing.assert_allclose(probabilities_of(2 * logits, temperature=2), [[1 / 4, 3 / 4]])
    for loss in ("softmax", "sigmoid"):
        with np.errstate(all="raise", under="ignore"):
            found = probabilities_of(np.array([[-1e4, 1e4]]), loss)
        np.testing.assert_array_equal(found, [[0, 1]])


def test_targets_of_one_class():
    np.testing.assert_array_equal(targets_of(np.array([1]), 4, jnp.float32), [[0, 1, 0, 0]])
    smooth = targets_of(np.array([1]), 4, jnp.float32, 0.2)
    np.testing.assert_allclose(smooth, [[0.05, 0.85, 0.05, 0.05]])
    assert targets_of(np.array([1]), 4, jnp.bfloat16).dtype == jnp.bfloat16


def test_targets_of_any_number_of_classes_move_towards_one_half():
    labels = jnp.array([[1, 0, 1]])
    np.testing.assert_array_equal(targets_of(labels, 3, jnp.float32), [[1, 0, 1]])
    np.testing.assert_allclose(targets_of(labels, 3, jnp.float32, 0.2), [[0.9, 0.1, 0.9]])


def test_the_binary_loss_of_single_labels_is_timms_and_scikit_learns():
    logits, labels, _ = draw(0, 50, 3, 1)
    one_hot = np.eye(3)[labels]
    chances = probabilities_of(logits, "one_vs_all")
    expected = np.mean([log_loss(one_hot[:, k], chances[:, k]) for k in range(3)])
    assert mean_loss(logits, labels, "one_vs_all") == pytest.approx(expected)
    targets = targets_of(labels, 3, jnp.float32)
    found = float(LOSSES["one_vs_all"](logits, targets).mean())
    assert found == pytest.approx(expected, rel=1e-5)
    halved = mean_loss(2 * logits, labels, "one_vs_all", temperature=2.0)
    assert halved == pytest.approx(expected)
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm.loss")
    theirs = timm.BinaryCrossEntropy(smoothing=0.1)(torch.tensor(logits), torch.tensor(labels))
    smooth = targets_of(labels, 3, jnp.float32, 0.1)
    found = float(LOSSES["one_vs_all"](logits, smooth).mean())
    assert found == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_the_gradient_at_the_logits_is_probability_minus_target(name):
    logits, _, several = draw(3, 5, 4, 2)
    targets = several if name == "sigmoid" else several / np.maximum(several.sum(1), 1)[:, None]
    targets[targets.sum(1) == 0, 0] = 1
    gradient = jax.grad(lambda values: LOSSES[name](values, targets).sum())(jnp.asarray(logits))
    expected = probabilities_of(logits, name) - targets
    scale = 4 if name == "sigmoid" else 1  # the mean over the classes
    np.testing.assert_allclose(gradient * scale, expected, atol=1e-5)
