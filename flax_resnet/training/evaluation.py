"""Scores of a state on all images of a split, each image counted once."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ..data import Source, eval_batches
from ..metrics.average_precision import mean_average_precision
from .mesh import local_shard, shard_batch
from .preemption import Stopped, StopRequest
from .state import TrainState
from .step import Batch, Metrics, eval_logits, eval_step

Scores = dict[str, float]

_NO_TX = optax.identity()


def evaluate_split(
    state: TrainState,
    split: Source,
    batch_size: int,
    mesh: Mesh,
    stop: StopRequest | None = None,
) -> Scores:
    """Exact means over all images of a split: ``{"loss", "top1", "top5"}``; empty for no images.

    Where an image has any number of classes, also ``"map"``, the mean average precision: the
    logits of all images are kept for it, four bytes an image and class.

    Raises:
      Stopped: ``stop``, polled before each batch, says so.
    """
    state = for_evaluation(state)
    sums = None
    kept = []
    for batch in eval_batches(split, batch_size=batch_size, shard=local_shard()):
        if stop is not None and stop.poll():
            raise Stopped
        placed = shard_batch(batch, mesh)
        if batch["label"].ndim == 1:
            metrics = _jitted_eval_step(state, placed)
        else:
            metrics, logits = _jitted_eval_with_logits(state, placed)
            mine = [_all_rows(array) for array in (logits, placed["label"], placed["mask"])]
            kept.append(mine)
        sums = metrics if sums is None else jax.tree.map(jnp.add, sums, metrics)
    if sums is None:
        return {}
    scores = to_means(sums)
    if kept:
        logits, labels, mask = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        scores["map"] = mean_average_precision(logits[mask], labels[mask])
    return scores


def for_evaluation(state: TrainState) -> TrainState:
    """The state without what training alone needs, so that all phases of a run share a program."""
    options = dataclasses.replace(state.options, trainable=None, train_preprocess=None)
    model = state.model
    if getattr(model, "freeze_before", None) is not None:
        model = model.clone(freeze_before=None)
    return dataclasses.replace(state, model=model, tx=_NO_TX, opt_state=(), options=options)


def score_of(scores: Scores) -> float | None:
    """What the best checkpoint is chosen by: mean average precision where there is one, else
    top-1; None without scores."""
    return scores.get("map", scores.get("top1"))


def to_means(sums: Metrics) -> Scores:
    """Sums over examples to means, ``count`` left out."""
    values = {name: float(value) for name, value in jax.device_get(sums).items()}
    count = max(values.pop("count"), 1.0)
    return {name: value / count for name, value in values.items()}


def _eval_with_logits(state: TrainState, batch: Batch) -> tuple[Metrics, jax.Array]:
    return eval_step(state, batch), eval_logits(state, batch)  # one forward pass under jit


_jitted_eval_step = jax.jit(eval_step)
_jitted_eval_with_logits = jax.jit(_eval_with_logits)
# Of a global array, whichever process holds its rows.
_all_rows = partial(multihost_utils.process_allgather, tiled=True)
