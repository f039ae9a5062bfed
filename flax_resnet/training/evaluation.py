"""Evaluation of variables on all images of a split; every image counts once."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ..data import Source, eval_batches
from ..metrics import mean_average_precision
from .eval_step import Batch, EvalStep, Metrics
from .mesh import local_shard
from .partitioning import Partitioning
from .preemption import Stopped, StopRequest

Scores = dict[str, float]


@dataclass(frozen=True)
class SplitEvaluation:
    """What evaluation found on a split.

    Attributes:
        scores: Means over the images: ``{"loss", "top1", "top5"}``, with ``"map"`` (mean average
            precision) where images can have several classes; empty for no images, and NaN if none
            could be read.
        logits: float32 ``[N, K]`` of the images that could be read, in order, if they were kept.
        labels: Their labels, if the logits were kept.
        rows: Their indices in the split, if the logits were kept.
    """

    scores: Scores
    logits: np.ndarray | None = None
    labels: np.ndarray | None = None
    rows: np.ndarray | None = None


def evaluate_split(
    step: EvalStep,
    variables: Any,
    split: Source,
    batch_size: int,
    partitioning: Partitioning,
    stop: StopRequest | None = None,
    keep_logits: bool = False,
) -> SplitEvaluation:
    """Evaluate variables on all images of a split.

    Args:
        step: Evaluates a batch.
        variables: ``{"params", "batch_stats"}``.
        split: The images and labels.
        batch_size: Images of a batch, over all devices.
        partitioning: How batches are split over devices.
        stop: Polled before each batch.
        keep_logits: Keep the logits of all images, four bytes for each image and class. Where
            images can have several classes, they are kept in any case, for the mean average
            precision.

    Raises:
        Stopped: ``stop`` asks the run to stop.
    """
    keep_logits |= split.labels.ndim > 1
    totals: Metrics | None = None
    kept: list[list[np.ndarray]] = []
    for batch in eval_batches(split, batch_size=batch_size, shard=local_shard()):
        if stop is not None and stop.poll():
            raise Stopped
        placed = partitioning.put_batch(batch)
        sums, logits = _evaluate(step, keep_logits, partitioning, variables, placed)
        if keep_logits:
            kept.append([_all_rows(rows) for rows in (logits, placed["label"], placed["mask"])])
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    if totals is None:
        return SplitEvaluation({})
    scores = to_means(totals)
    if not keep_logits:
        return SplitEvaluation(scores)
    all_logits, labels, mask = (np.concatenate(rows) for rows in zip(*kept, strict=True))
    all_logits, labels = all_logits[mask], labels[mask]
    if labels.ndim > 1:
        scores["map"] = mean_average_precision(all_logits, labels)
    # Only the last batch is padded, at its end.
    return SplitEvaluation(scores, all_logits, labels, np.flatnonzero(mask))


def score_of(scores: Scores) -> float | None:
    """The score that ranks checkpoints: mean average precision if there is one, else top-1.

    None without images, or if it is NaN, which has no rank.
    """
    score = scores.get("map", scores.get("top1"))
    return None if score is None or math.isnan(score) else score


def to_means(sums: Metrics) -> Scores:
    """Means over examples from sums over examples, without ``count``, and without what counts
    steps. They are NaN over no examples, such as images that cannot be read: 0 would be the loss
    of a perfect model."""
    values = {
        name: float(value)
        for name, value in jax.device_get(sums).items()
        if not name.startswith("nonfinite")
    }
    count = values.pop("count") or math.nan
    return {name: value / count for name, value in values.items()}


# The steps are static arguments, compared by value, so all phases of a run share a program.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluate(
    step: EvalStep, keep_logits: bool, partitioning: Partitioning, variables: Any, batch: Batch
) -> tuple[Metrics, jax.Array | None]:
    logits_of = partitioning.map_images(step.logits)
    logits = logits_of(variables, batch["image"])
    return step.metrics(logits, batch), logits if keep_logits else None


# The rows of a global array, whichever processes hold them.
_all_rows = partial(multihost_utils.process_allgather, tiled=True)
