"""The evaluation step, and the sums of metrics of a batch; see ``step`` for batches and axes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from ..metrics import LOSSES, targets_of, top_k_hits
from .collectives import global_sum

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = str | Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class EvalStep:
    """Evaluates a batch: a pure function of variables and batch.

    Attributes:
        model: A Linen module called as ``(images, train)``.
        loss: As in ``TrainStep``.
        preprocess: From the images of a batch to the model's input, or None.
        flipped: Average the logits of each image and its mirror image.
        compute_sharding: As in ``TrainStep``.
    """

    model: nn.Module
    loss: Loss = "softmax"
    preprocess: Callable[[jax.Array], jax.Array] | None = None
    flipped: bool = False
    compute_sharding: NamedSharding | None = None

    def logits(self, variables: Any, images: jax.Array) -> jax.Array:
        """The logits ``[N, K]`` of images ``[N, H, W, C]`` as a batch holds them."""
        if self.preprocess is not None:
            images = self.preprocess(images)
        if self.compute_sharding is not None:
            variables = lax.with_sharding_constraint(variables, self.compute_sharding)
        logits: Any = self.model.apply(variables, images, train=False)
        if self.flipped:
            logits += self.model.apply(variables, images[:, :, ::-1], train=False)
            logits /= 2
        return logits

    def __call__(self, variables: Any, batch: Batch, axis_name: str | None = None) -> Metrics:
        """Sum the metrics of the examples that ``mask`` keeps, over the global batch.

        Returns:
            ``{"loss", "top1", "top5", "count"}``, float32 ``[]`` each: the loss without label
            smoothing, correct answers, and examples, so that they add up over batches, devices and
            hosts. With fewer than five classes ``top5`` counts all examples. Where an image has
            several classes, an answer is correct if it is one of them.
        """
        return self.metrics(self.logits(variables, batch["image"]), batch, axis_name)

    def metrics(self, logits: jax.Array, batch: Batch, axis_name: str | None = None) -> Metrics:
        """Sum the metrics of a batch whose logits ``[N, K]`` are known."""
        sums = metric_sums(logits, batch["label"], example_weights(batch), self.loss)
        return global_sum(sums, axis_name)


def zero_metrics() -> Metrics:
    """The sums of no examples."""
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", "top1", "top5", "count")}


def metric_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array, loss: Loss) -> Metrics:
    """Sums over these examples, see ``EvalStep``; ``weights`` float ``[N]``."""
    targets = targets_of(labels, logits.shape[-1], logits.dtype, label_smoothing=0.0)
    hits = top_k_hits(logits, targets > 0)
    per_example = {
        "loss": loss_function(loss)(logits, targets),
        "top1": hits[:, 0],
        "top5": hits.any(axis=1),
        "count": jnp.ones_like(weights),
    }
    # A masked example may hold anything, so it is left out rather than multiplied by zero.
    return {
        name: jnp.sum(jnp.where(weights > 0, value * weights, 0))
        for name, value in per_example.items()
    }


def loss_function(loss: Loss) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The losses ``[N]`` of logits and targets ``[N, K]``."""
    return LOSSES[loss] if isinstance(loss, str) else loss


def example_weights(batch: Batch) -> jax.Array:
    """The mask of a batch, float32 ``[N]``: 1 for an example that counts, else 0."""
    mask = batch.get("mask")
    if mask is None:
        return jnp.ones(batch["label"].shape[:1], jnp.float32)
    return mask.astype(jnp.float32)
