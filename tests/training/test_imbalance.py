"""Classes of very different sizes: weights in the loss, and an order that balances them."""

import dataclasses
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

import flax_resnet as fr
from flax_resnet.config import Config, DataConfig
from flax_resnet.data import BalancedOrder, batch_indices
from flax_resnet.metrics import balanced_class_weights
from flax_resnet.training.resolve import resolve
from flax_resnet.training.transfer.head import fit_strengths
from tests.tiny_net import TINY

LABELS = np.repeat([0, 1, 2], [300, 40, 7])[np.random.default_rng(5).permutation(347)]


def test_balanced_weights_are_scikit_learns():
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(balanced_class_weights(LABELS, 3), theirs)
    np.testing.assert_array_equal(balanced_class_weights(LABELS, 4)[:3], theirs)
    assert balanced_class_weights(LABELS, 4)[3] == 0


def test_classes_are_not_balanced_twice():
    data = DataConfig(name="digits", sampling="balanced")
    with pytest.raises(fr.UserError, match=r"--class-weights balanced and --data.sampling bal"):
        resolve(Config(model=TINY, data=data, class_weights="balanced"))


def test_an_epoch_has_as_many_of_each_class_and_uses_its_images_equally():
    order, size = BalancedOrder(LABELS), len(LABELS)
    epochs = [order(1, epoch, size) for epoch in range(9)]
    for epoch in epochs:
        counts = np.bincount(LABELS[epoch], minlength=3)
        assert counts.sum() == size and counts.max() - counts.min() <= 1
    used = np.bincount(np.concatenate(epochs), minlength=size)
    for label in range(3):  # whole rounds of a class, and one that is not complete
        assert np.ptp(used[label == LABELS]) <= 1


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    first, again = BalancedOrder(LABELS), BalancedOrder(LABELS)
    for epoch in (3, 0, 7, 3):
        np.testing.assert_array_equal(first(0, epoch, 347), BalancedOrder(LABELS)(0, epoch, 347))
    assert not np.array_equal(first(0, 1, 347), first(1, 1, 347))
    line = np.concatenate([batch_indices(0, step, 32, 347, order=first) for step in range(22)])
    np.testing.assert_array_equal(line[:694], np.r_[again(0, 0, 347), again(0, 1, 347)])


def test_threads_may_share_an_order(monkeypatch):
    """Two that made the orders of two epochs at once left those of all later ones in memory."""
    order, generator = BalancedOrder(LABELS), np.random.default_rng
    meeting, met = threading.Barrier(2), set()

    def meet(seed):
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            meeting.wait(60)
        return generator(seed)

    for epoch in range(2):
        order(0, epoch, 347)
    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(np.random, "default_rng", meet)
        found = list(pool.map(lambda epoch: order(0, epoch, 347), (2, 3)))
    for epoch, one in zip((2, 3), found, strict=True):
        np.testing.assert_array_equal(one, BalancedOrder(LABELS)(0, epoch, 347))
    later = [weakref.ref(order(0, epoch, 347)) for epoch in range(4, 12)]
    assert sum(one() is not None for one in later) <= 2


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3, name="fc")(x.reshape(len(x), -1))


def test_weighted_gradients_agree_with_numpy():
    weights = (0.5, 2.0, 4.0)
    step = fr.TrainStep(Linear(), optax.sgd(1.0), class_weights=weights)
    images = np.random.default_rng(0).normal(size=(6, 2, 2, 1)).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 2, 1])
    state = step.init(jax.random.key(0), images)
    after, sums = jax.jit(step)(state, {"image": images, "label": labels})
    logits = images.reshape(6, -1) @ np.asarray(state.params["fc"]["kernel"])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (probabilities - np.eye(3)[labels]) * np.array(weights)[labels][:, None]
    np.testing.assert_allclose(after.params["fc"]["bias"], -slope.mean(0), atol=1e-6)
    plain = dataclasses.replace(step, class_weights=None)
    for name, value in jax.jit(plain)(state, {"image": images, "label": labels})[1].items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6)  # metrics do not weigh
    with pytest.raises(ValueError, match="class_weights need loss='softmax'"):
        fr.TrainStep(Linear(), optax.sgd(1.0), loss="sigmoid", class_weights=weights)


def test_the_weighted_head_is_scikit_learns():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(347, 4)) + LABELS[:, None]).astype(np.float32)
    weights = tuple(balanced_class_weights(LABELS, 3).tolist())
    (fit,) = fit_strengths((features, LABELS), (features[:0], LABELS[:0]), 3, weights)
    standard = (features - features.mean(0)) / features.std(0)
    theirs = LogisticRegression(C=1 / (fit.strength * 347), class_weight="balanced", tol=1e-8)
    expected = theirs.fit(standard, LABELS).predict_log_proba(standard)
    logits = features @ fit.kernel + fit.bias
    got = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(got, expected, atol=5e-3)
