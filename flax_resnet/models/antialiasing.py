"""Downsampling that filters before it drops pixels, in place of a stride of two."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def blur_pool(x: jax.Array) -> jax.Array:
    """Every second pixel after a 3x3 binomial filter (Zhang 2019, "shift-invariant again").

    Args:
        x: Images ``[N, H, W, C]`` of at least 2x2 pixels; their edges are mirrored.

    Returns:
        Images ``[N, ceil(H / 2), ceil(W / 2), C]``.

    Raises:
        ValueError: The images are smaller.
    """
    sizes = x.shape[1:3]
    if min(sizes) < 2:
        raise ValueError(f"anti_alias='blur' needs 2x2 pixels in every stage, not {sizes}")
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    for axis, size in enumerate(sizes, start=1):
        before, at, after = (lax.slice_in_dim(x, i, i + size, 2, axis) for i in range(3))
        x = (before + 2 * at + after) / 4
    return x


def mean_pool(x: jax.Array) -> jax.Array:
    """The mean of each 2x2 pixels: ``[N, H, W, C]`` to ``[N, H / 2, W / 2, C]``.

    Raises:
        ValueError: A size is odd; the shortcut beside it would have another size.
    """
    if any(size % 2 for size in x.shape[1:3]):
        raise ValueError(
            f"anti_alias='mean' halves even sizes only, not {x.shape[1:3]}: give images whose "
            "height and width are multiples of 32"
        )
    return nn.avg_pool(x, (2, 2), (2, 2))


# What takes the place of a stride of two, by the option ``anti_alias``.
ANTI_ALIASING: dict[str, Callable[[jax.Array], jax.Array]] = {"blur": blur_pool, "mean": mean_pool}
