"""The pure train and evaluation steps, the same under jit, shard_map and pmap.

A batch is ``{"image": [N, H, W, C] uint8 or float, "label": [N] int, "mask": [N] bool}``; the mask
is optional. Where an image has any number of classes the labels are float ``[N, classes]`` of 0 and
1, and the loss is "sigmoid". With ``axis_name`` the batch is one device's share and the step is
called inside ``shard_map`` or ``pmap`` over that axis; gradients, metrics and batch norm are then
global.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .freezing import merge, partition
from .state import StepOptions, TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

TOP_K = 5


def train_step(
    state: TrainState, batch: Batch, axis_name: str | None = None
) -> tuple[TrainState, Metrics]:
    """One optimiser step on ``batch``.

    Randomness derives from ``(state.key, state.step, place of the example in the global batch)``,
    so that any number of devices gives the same numbers. A mask weighs the loss; batch norm sees
    every example, so fill a training batch with real images.

    Returns:
      The new state, and sums over the global batch, as of :func:`eval_step`.
    """
    model, options = state.model, state.options
    images, count = batch["image"], batch["image"].shape[0]
    place = jnp.arange(count)
    trained, frozen = partition(state.params, options.trainable)
    own = trained
    if axis_name is not None:
        model = model.clone(axis_name=axis_name)
        place += count * lax.axis_index(axis_name)
        # Each device differentiates its own copy: shard_map would otherwise sum the gradients of
        # replicated parameters on its own (check_vma), pmap would not, and one rule serves both.
        own = jax.tree.map(lambda leaf: lax.pcast(leaf, axis_name, to="varying"), own)

    step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    augment_key, dropout_key = jax.random.split(step_key)
    if options.augment is not None:
        images = options.augment(augment_key, images, place)
    prepare = options.train_preprocess or options.preprocess
    if prepare is not None:
        images = prepare(images)
    mixed = None
    if options.mix is not None:
        mix_key = jax.random.fold_in(step_key, 2)  # 0 and 1 would be the two keys above
        soft = _targets(batch["label"], model.num_classes, images.dtype, options)
        images, mixed = options.mix(mix_key, images, soft, axis_name)
    weights = _weights(batch)
    total = jnp.maximum(_global_sum(weights.sum(), axis_name), 1)

    # A function of the trained parameters alone: nothing below the first of them is differentiated.
    def loss_of(own: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, updates = model.apply(
            {"params": merge(own, frozen), "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        targets = mixed
        if targets is None:
            targets = _targets(batch["label"], logits.shape[-1], logits.dtype, options)
        losses = _losses(logits, targets, options)
        return jnp.sum(losses * weights) / total, (logits, updates.get("batch_stats", {}))

    (_, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(own)
    grads = _global_sum(grads, axis_name)
    updates, opt_state = state.tx.update(grads, state.opt_state, trained)
    params = merge(optax.apply_updates(trained, updates), frozen)
    ema = state.ema
    if ema is not None and options.ema_decay is not None:
        new = {"params": params, "batch_stats": batch_stats}
        keep = options.ema_decay
        # In this form what has not changed, as where it is frozen, stays equal to the bit.
        ema = jax.tree.map(lambda old, now: old + (1 - keep) * (now - old), ema, new)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        ema=ema,
    )
    return new_state, _metric_sums(logits, batch["label"], weights, options, axis_name)


def eval_step(state: TrainState, batch: Batch, axis_name: str | None = None) -> Metrics:
    """Sums over the examples of the global batch that ``mask`` keeps, float32 ``[]`` each.

    ``{"loss", "top1", "top5", "count"}``: cross-entropy without smoothing, correct answers, and
    examples, so that they add up over batches, devices and hosts. With fewer than five classes
    ``top5`` counts all. Where an image has any number of classes, an answer is correct if it is one
    of them. The moving average of the weights is evaluated where there is one.
    """
    logits = eval_logits(state, batch)
    return _metric_sums(logits, batch["label"], _weights(batch), state.options, axis_name)


def eval_logits(state: TrainState, batch: Batch) -> jax.Array:
    """Logits ``[N, classes]`` of a batch, as evaluation computes them."""
    images = batch["image"]
    if state.options.preprocess is not None:
        images = state.options.preprocess(images)
    logits: Any = state.model.apply(state.eval_variables, images, train=False)
    if state.options.evaluate_flipped:
        logits += state.model.apply(state.eval_variables, images[:, :, ::-1], train=False)
        logits /= 2
    return logits


def zero_metrics() -> Metrics:
    """The sums of no examples."""
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", "top1", "top5", "count")}


def _targets(labels: jax.Array, classes: int, dtype: Any, options: StepOptions) -> jax.Array:
    """What each class's output should be, ``[N, classes]``.

    Smoothing moves targets towards 1 / classes where one class is right, towards 1 / 2 where each
    class is a question of its own.
    """
    smoothing = options.label_smoothing
    if labels.ndim == 2:
        return labels.astype(dtype) * (1 - smoothing) + smoothing / 2
    return optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=dtype), smoothing)


def _losses(logits: jax.Array, targets: jax.Array, options: StepOptions) -> jax.Array:
    """Cross-entropy of each example, ``[N]``; of sigmoids the mean over the classes."""
    if options.loss == "sigmoid":
        return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, targets)


def _weights(batch: Batch) -> jax.Array:
    mask = batch.get("mask")
    if mask is None:
        return jnp.ones(batch["label"].shape[:1], jnp.float32)
    return mask.astype(jnp.float32)


def _metric_sums(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    options: StepOptions,
    axis_name: str | None,
) -> Metrics:
    unsmoothed = dataclasses.replace(options, label_smoothing=0.0)
    targets = _targets(labels, logits.shape[-1], logits.dtype, unsmoothed)
    losses = _losses(logits, targets, options)
    _, best = lax.top_k(logits, min(TOP_K, logits.shape[-1]))
    hits = jnp.take_along_axis(targets, best, axis=-1) > 0
    per_example = {
        "loss": losses,
        "top1": hits[:, 0],
        "top5": hits.any(axis=1),
        "count": jnp.ones_like(weights),
    }
    # A masked example may hold anything, so it is left out rather than multiplied by zero.
    sums = {
        name: jnp.sum(jnp.where(weights > 0, value * weights, 0)).astype(jnp.float32)
        for name, value in per_example.items()
    }
    return _global_sum(sums, axis_name)


def _global_sum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else lax.psum(tree, axis_name)
