"""Top-k hits in JAX next to ``lax.top_k``, scikit-learn and the ranks in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from sklearn.metrics import top_k_accuracy_score

from flax_resnet.metrics import TOP_K, classification_scores, top_k_hits
from flax_resnet.metrics.classification import label_ranks


@settings(database=None, deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.just(20), st.sampled_from([1, 3, 9]), st.integers(1, 12))
def test_hits_are_those_of_top_k_and_of_the_ranks(seed, count, num_classes, levels):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, levels, (count, num_classes)).astype(np.float32)  # with ties
    labels = rng.integers(0, num_classes, count)
    k = min(TOP_K, num_classes)
    correct = np.arange(num_classes) == labels[:, None]
    found = top_k_hits(jnp.asarray(logits), jnp.asarray(correct))
    _, indices = lax.top_k(logits, k)
    np.testing.assert_array_equal(found, indices == labels[:, None])
    ranks = label_ranks(logits, labels)
    np.testing.assert_array_equal(found, ranks[:, None] == np.arange(k))


def test_any_correct_class_is_a_hit():
    logits = jnp.array([[3.0, 2.0, 1.0]])
    found = top_k_hits(logits, jnp.array([[True, False, True]]))
    np.testing.assert_array_equal(found, [[True, False, True]])


@pytest.mark.parametrize("num_classes", [6, 10])
def test_accuracies_are_scikit_learns(num_classes):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(200, num_classes)), rng.integers(0, num_classes, 200)
    scores = classification_scores(logits, labels)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=range(num_classes))
        assert scores[f"top{k}"] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [slice(None), 2])
def test_no_prediction_of_a_model_that_diverged_is_correct(bad):
    logits = np.zeros((4, 4), np.float32)
    logits[:, bad] = np.nan
    assert classification_scores(logits, np.arange(4))["top1"] == 0
    assert not top_k_hits(jnp.asarray(logits), jnp.eye(4, dtype=bool)).any()
