"""Top-k accuracy in JAX, one value per example."""

import jax
import jax.numpy as jnp
from jax import lax

TOP_K = 5


def top_k_hits(logits: jax.Array, correct: jax.Array) -> jax.Array:
    """Whether the class with the highest, second highest, ... logit of each example is correct.

    Classes with equal logits are ranked by their index, as in ``lax.top_k``. No prediction is
    correct if a logit is NaN. ``lax.top_k`` itself is not used, because the partitioner would first
    gather all logits on every device.

    Args:
        logits: ``[N, num_classes]``.
        correct: whether each class is a correct answer, bool ``[N, num_classes]``.

    Returns:
        bool ``[N, min(TOP_K, num_classes)]``, from the highest logit down.
    """
    classes = lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    correct = correct & ~jnp.isnan(logits).any(axis=-1, keepdims=True)
    hits = []
    for _ in range(min(TOP_K, logits.shape[-1])):
        chosen = classes == jnp.argmax(logits, axis=-1, keepdims=True)
        hits.append(jnp.any(chosen & correct, axis=-1))
        logits = jnp.where(chosen, -jnp.inf, logits)
    return jnp.stack(hits, axis=1)
