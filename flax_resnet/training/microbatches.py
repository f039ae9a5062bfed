"""Accumulation of gradients over microbatches, which saves memory."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .collectives import as_varying
from .eval_step import Batch, Metrics


def accumulate(
    differentiate: Callable[..., Any],
    trained: Any,
    batch_stats: Any,
    examples: Batch,
    dropout_key: jax.Array,
    count: int,
    axis_name: str | None,
) -> tuple[Any, Any, Metrics]:
    """Sum the gradients of ``count`` microbatches, one after the other.

    Args:
        differentiate: ``(trained, batch_stats, examples, key) -> (loss, (batch_stats, metrics)),
            gradients``.
        trained: The parameters that are differentiated.
        batch_stats: The running statistics, which the microbatches update in order.
        examples: The batch, arrays ``[N, ...]`` with N a multiple of ``count``.
        dropout_key: Key of the batch's dropout masks.
        count: Number of microbatches.
        axis_name: Name of the mapped device axis, or None.

    Returns:
        The sums of gradients, the new running statistics, and the sums of metrics.
    """
    # Every count-th example: the same ones on any number of devices, and from each device its own.
    microbatches = jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0), examples
    )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(dropout_key, jnp.arange(count))

    def add(carry: Any, microbatch: tuple[Batch, jax.Array]) -> tuple[Any, Metrics]:
        grads, batch_stats = carry
        (_, (batch_stats, sums)), new_grads = differentiate(trained, batch_stats, *microbatch)
        if axis_name is not None:
            batch_stats = as_varying(batch_stats, axis_name)
        return (jax.tree.map(jnp.add, grads, new_grads), batch_stats), sums

    start = jax.tree.map(jnp.zeros_like, trained), batch_stats
    if axis_name is not None:
        start = as_varying(start, axis_name)
    (grads, batch_stats), sums = _scan(add, start, (microbatches, keys))
    return grads, batch_stats, jax.tree.map(lambda leaf: leaf.sum(0), sums)


def _scan(body: Any, carry: Any, xs: tuple[Batch, jax.Array]) -> tuple[Any, Any]:
    """``lax.scan`` over ``(microbatches, keys)``, where ``carry[0]`` holds the gradients.

    On CPU it is unrolled, because XLA compiles a loop's body there to code that is 15 times slower.
    """
    if jax.default_backend() != "cpu":
        return lax.scan(body, carry, xs)
    outputs = []
    for number in range(len(xs[1])):
        examples, key = jax.tree.map(itemgetter(number), xs)
        if number:
            # The index of the microbatch depends on the gradients before it, by bits that are
            # always 0. Otherwise XLA would run all of them side by side, with the memory of all of
            # them; it ignores optimization_barrier on CPU.
            examples["image"] = lax.dynamic_index_in_dim(
                xs[0]["image"], number + _zero_after(carry[0]), keepdims=False
            )
        carry, output = body(carry, (examples, key))
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def _zero_after(tree: Any) -> jax.Array:
    """Zero, int32 ``[]``, that XLA computes only when every leaf is known, whatever they hold."""
    bits = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        first = lax.bitcast_convert_type(leaf.ravel()[0].astype(jnp.float32), jnp.uint32)
        bits = bits | first
    return ((bits >> 16) >> 16).astype(jnp.int32)  # XLA does not see that no bit is left
