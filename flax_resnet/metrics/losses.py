"""Losses of training in JAX: one value per example, differentiable."""

from collections.abc import Callable

import jax
import optax
from jax.typing import DTypeLike


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy between target distributions and the softmax of logits, in nats.

    Args:
        logits: ``[N, num_classes]``.
        targets: the probability of each class, ``[N, num_classes]``.

    Returns:
        One loss per example, ``[N]``.
    """
    return optax.softmax_cross_entropy(logits, targets)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross-entropy of independent classes, in nats, averaged over the classes.

    Args:
        logits: ``[N, num_classes]``.
        targets: the probability that an example has each class, ``[N, num_classes]``.

    Returns:
        One loss per example, ``[N]``.
    """
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
    "one_vs_all": sigmoid_cross_entropy,
}
"""The losses by the names that the config field ``loss`` accepts. ``"sigmoid"`` is for images with
any number of classes, ``"one_vs_all"`` for images with one."""


def targets_of(
    labels: jax.Array, num_classes: int, dtype: DTypeLike, label_smoothing: float = 0.0
) -> jax.Array:
    """Target of each class, from the labels of a batch.

    Args:
        labels: int ``[N]``, or ``[N, num_classes]`` of 0 and 1 if an image can have any number of
            classes.
        num_classes: number of classes.
        dtype: of the result.
        label_smoothing: how far targets move towards ``1 / num_classes``, or towards ``1 / 2`` if
            an image can have any number of classes, since each class is then a binary decision.

    Returns:
        Targets ``[N, num_classes]``.
    """
    if labels.ndim == 2:
        return labels.astype(dtype) * (1 - label_smoothing) + label_smoothing / 2
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes, dtype=dtype), label_smoothing)
