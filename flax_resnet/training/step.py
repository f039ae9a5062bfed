"""The pure train and evaluation steps, the same under jit, shard_map and pmap.

A batch is ``{"image": [N, H, W, C] uint8 or float, "label": [N] int, "mask": [N] bool}``; the mask
is optional. Where an image has any number of classes the labels are float ``[N, classes]`` of 0 and
1, and the loss is "sigmoid". With ``axis_name`` the batch is one device's share and the step is
called inside ``shard_map`` or ``pmap`` over that axis; gradients, metrics and batch norm are then
global.
"""

import dataclasses
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .state import StepOptions, TrainState
from .transfer.freezing import merge, partition

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
    options = state.options
    trained, frozen = partition(state.params, options.trainable)
    used = trained, frozen
    if options.gathered is not None:
        used = lax.with_sharding_constraint(used, options.gathered)
    examples, dropout_key = _prepare_batch(state, batch, axis_name)
    grads, batch_stats, sums = _gradients(state, *used, examples, dropout_key, axis_name)
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
    return new_state, sums


def _prepare_batch(
    state: TrainState, batch: Batch, axis_name: str | None
) -> tuple[Batch, jax.Array]:
    """The examples as the model sees them, and the key of dropout.

    ``{"image", "label", "mask", "share"}``, and ``"target"`` where they are mixed; the shares are
    the mask over its sum over the global batch.
    """
    options, images, labels = state.options, batch["image"], batch["label"]
    place = jnp.arange(len(images))
    if axis_name is not None:
        place += len(images) * lax.axis_index(axis_name)
    step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    augment_key, dropout_key = jax.random.split(step_key)
    if options.augment is not None:
        images = options.augment(augment_key, images, place)
    prepare = options.train_preprocess or options.preprocess
    if prepare is not None:
        images = prepare(images)
    mask = _weights(batch)
    # Without a mask the sum is known, and the devices need not speak about it.
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    total = _global_sum(mask.sum(), axis_name) if "mask" in batch else len(images) * devices
    examples = {"label": labels, "mask": mask, "share": mask / jnp.maximum(total, 1)}
    if options.mix is not None:
        mix_key = jax.random.fold_in(step_key, 2)  # 0 and 1 would be the two keys above
        soft = _targets(labels, state.model.num_classes, images.dtype, options)
        images, examples["target"] = options.mix(mix_key, images, soft, axis_name)
    return examples | {"image": images}, dropout_key


def _gradients(
    state: TrainState,
    trained: Any,
    frozen: Any,
    examples: Batch,
    dropout_key: jax.Array,
    axis_name: str | None,
) -> tuple[Any, Any, Metrics]:
    """Gradients, new running statistics and metrics of the global batch."""
    model, options = state.model, state.options
    if axis_name is not None:
        model = model.clone(axis_name=axis_name)
        # Each device differentiates its own copy: shard_map would otherwise sum the gradients of
        # replicated parameters on its own (check_vma), pmap would not, and one rule serves both.
        trained = _varying(trained, axis_name)

    # A function of the trained parameters alone: nothing below the first of them is differentiated.
    def loss_of(
        trained: Any, batch_stats: Any, part: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Any, Metrics]]:
        logits, updates = model.apply(
            {"params": merge(trained, frozen), "batch_stats": batch_stats},
            part["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        targets = part.get("target")
        if targets is None:
            targets = _targets(part["label"], logits.shape[-1], logits.dtype, options)
        loss = jnp.sum(_losses(logits, targets, options) * part["share"])
        sums = _metric_sums(logits, part["label"], part["mask"], options)
        return loss, (updates.get("batch_stats", {}), sums)

    differentiate = jax.value_and_grad(loss_of, has_aux=True)
    count = options.microbatches
    if count == 1:
        (_, (batch_stats, sums)), grads = differentiate(
            trained, state.batch_stats, examples, dropout_key
        )
    else:
        # Every count-th example: on any number of devices the same ones, and each device its own.
        parts = jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0), examples
        )
        keys = jax.vmap(jax.random.fold_in, (None, 0))(dropout_key, jnp.arange(count))

        def accumulate(carry: Any, each: tuple[Batch, jax.Array]) -> tuple[Any, Metrics]:
            grads, batch_stats = carry
            (_, (batch_stats, sums)), change = differentiate(trained, batch_stats, *each)
            if axis_name is not None:
                batch_stats = _varying(batch_stats, axis_name)
            return (jax.tree.map(jnp.add, grads, change), batch_stats), sums

        start = jax.tree.map(jnp.zeros_like, trained), state.batch_stats
        if axis_name is not None:
            start = _varying(start, axis_name)
        (grads, batch_stats), each = _scan(accumulate, start, (parts, keys))
        sums = jax.tree.map(lambda leaf: leaf.sum(0), each)
    if axis_name is not None and _statistics_are_apart(model, count, axis_name):
        # Linear in what the devices saw: averaging at every step is averaging once at the end.
        batch_stats = lax.pmean(_varying(batch_stats, axis_name), axis_name)
    return _global_sum(grads, axis_name), batch_stats, _global_sum(sums, axis_name)


def _scan(body: Any, carry: Any, parts: Any) -> tuple[Any, Any]:
    """``lax.scan`` over ``(examples, keys)``, its carry a pair whose first holds gradients.

    On a CPU it is written out: what XLA compiles there for a loop's body is 15 times slower.
    """
    if jax.default_backend() != "cpu":
        return lax.scan(body, carry, parts)
    outputs = []
    for index in range(len(parts[1])):
        examples, key = jax.tree.map(itemgetter(index), parts)
        if index:
            # XLA would run the parts side by side, with the memory of all: so each needs the
            # gradients before it, in a way that changes nothing. It ignores optimization_barrier.
            nothing = 0 * sum(leaf.ravel()[0] for leaf in jax.tree.leaves(carry[0]))
            examples["image"] += nothing.astype(examples["image"].dtype)
        carry, output = body(carry, (examples, key))
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def _statistics_are_apart(model: Any, microbatches: int, axis_name: str) -> bool:
    """Whether each device holds running statistics of its own, for lack of a common batch; a lone
    device's are its own too, in the types of ``shard_map``."""
    groups = getattr(model, "batch_norm_groups", 0)
    return microbatches > 1 or groups != 1 or lax.axis_size(axis_name) == 1


def eval_step(state: TrainState, batch: Batch, axis_name: str | None = None) -> Metrics:
    """Sums over the examples of the global batch that ``mask`` keeps, float32 ``[]`` each.

    ``{"loss", "top1", "top5", "count"}``: cross-entropy without smoothing, correct answers, and
    examples, so that they add up over batches, devices and hosts. With fewer than five classes
    ``top5`` counts all. Where an image has any number of classes, an answer is correct if it is one
    of them. The moving average of the weights is evaluated where there is one.
    """
    logits = eval_logits(state, batch)
    return _global_sum(
        _metric_sums(logits, batch["label"], _weights(batch), state.options), axis_name
    )


def eval_logits(state: TrainState, batch: Batch) -> jax.Array:
    """Logits ``[N, classes]`` of a batch, as evaluation computes them."""
    images = batch["image"]
    if state.options.preprocess is not None:
        images = state.options.preprocess(images)
    variables = state.eval_variables
    if state.options.gathered is not None:
        variables = lax.with_sharding_constraint(variables, state.options.gathered)
    logits: Any = state.model.apply(variables, images, train=False)
    if state.options.evaluate_flipped:
        logits += state.model.apply(variables, images[:, :, ::-1], train=False)
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
    logits: jax.Array, labels: jax.Array, weights: jax.Array, options: StepOptions
) -> Metrics:
    """Sums over these examples, see :func:`eval_step`."""
    unsmoothed = dataclasses.replace(options, label_smoothing=0.0)
    targets = _targets(labels, logits.shape[-1], logits.dtype, unsmoothed)
    losses = _losses(logits, targets, options)
    hits = _hits(logits, targets > 0)
    per_example = {
        "loss": losses,
        "top1": hits[:, 0],
        "top5": hits.any(axis=1),
        "count": jnp.ones_like(weights),
    }
    # A masked example may hold anything, so it is left out rather than multiplied by zero.
    return {
        name: jnp.sum(jnp.where(weights > 0, value * weights, 0))
        for name, value in per_example.items()
    }


def _hits(logits: jax.Array, right: jax.Array) -> jax.Array:
    """Whether the best, second best, ... answer of each example is right, ``[N, up to TOP_K]``.

    As by ``lax.top_k``, which the partitioner would first gather all logits for.
    """
    classes = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    hits = []
    for _ in range(min(TOP_K, logits.shape[-1])):
        chosen = classes == jnp.argmax(logits, axis=-1, keepdims=True)
        hits.append(jnp.any(chosen & right, axis=-1))
        logits = jnp.where(chosen, -jnp.inf, logits)
    return jnp.stack(hits, axis=1)


def _global_sum(tree: Any, axis_name: str | None) -> Any:
    return tree if axis_name is None else lax.psum(tree, axis_name)


def _varying(tree: Any, axis_name: str) -> Any:
    """The tree as each device's own, in the types of ``shard_map``."""

    def own(leaf: jax.Array) -> jax.Array:
        if axis_name in jax.typeof(leaf).manual_axis_type.varying:
            return leaf
        return lax.pcast(leaf, axis_name, to="varying")

    return jax.tree.map(own, tree)
