"""Max-pool whose gradient selects by stored indices.

XLA's gradient of ``reduce_window`` searches for the maximum of each window again
(select-and-scatter), in a loop that XLA:CPU does not vectorise. Here the forward pass in training
stores one byte for each window: the index of its maximum. The gradient of each phase of pixels (row
and column modulo the stride) is then a sum of a few elementwise selections.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from . import onednn
from .convolution import is_static
from .table import ALLOWED_FAMILIES


def max_pool(
    x: jax.Array, window: int, stride: int, padding: int = 0, conv_impl: str = "auto"
) -> jax.Array:
    """Maximum of each ``window`` by ``window`` pixels: ``[N, H, W, C]`` to ``[N, H', W', C]``.

    Where a window has its maximum more than once, every algorithm sends the gradient to the first,
    row by row. A NaN is the maximum of its window.

    Args:
        x: Images, floating.
        window: Size of a window in both directions.
        stride: Stride in both directions.
        padding: Pixels of padding on each side; they are never the maximum.
        conv_impl: As in ``convolve``; ``"reference"`` is ``flax.linen.max_pool``.

    Raises:
        ValueError: No window fits the images.
    """
    sides = [side for side in x.shape[1:3] if isinstance(side, int)]  # others are symbolic
    if any(side + 2 * padding < window for side in sides):
        raise ValueError(
            f"no window of {window}x{window} pixels of a max-pool fits images of "
            f"{x.shape[1]}x{x.shape[2]}: give the model larger images"
        )
    if "onednn" in ALLOWED_FAMILIES[conv_impl]:
        pooled = onednn.max_pool(x, window, stride, padding)
        if pooled is not None:
            return pooled
    if (
        "jax" in ALLOWED_FAMILIES[conv_impl]
        and jax.default_backend() == "cpu"
        and is_static(x)
        and x.size
        and window < 16
    ):
        return _max_pool(x, window, stride, padding)
    return _reference(x, window, stride, padding)


def _reference(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    sides = ((padding, padding),) * 2
    return nn.max_pool(x, (window, window), (stride, stride), sides)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    return _reference(x, window, stride, padding)


def _forward(
    x: jax.Array, window: int, stride: int, padding: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Reduces columns, then rows, of each window.

    Returns:
        The maxima, and as residuals the index ``window * row + column`` of each, uint8
        ``[N, H', W', C]``, and an empty array with the image size of ``x``.
    """
    best, indices = x, list[jax.Array]()
    for axis in (2, 1):
        count = (x.shape[axis] + 2 * padding - window) // stride + 1
        # Padded as far as the last window reaches; what no window reaches is cut off.
        after = (count - 1) * stride + window - padding - x.shape[axis]
        lowest = jnp.array(-jnp.inf, x.dtype)
        taps = _taps(best, lowest, axis, padding, after, window, stride, count)
        index_taps = [_taps(p, 0, axis, padding, after, window, stride, count) for p in indices]
        best, indices = taps[0], [index_tap[0] for index_tap in index_taps]
        index = jnp.zeros(best.shape, jnp.uint8)
        for i in range(1, window):
            better = taps[i] > best
            best = jnp.maximum(best, taps[i])
            index = jnp.where(better, jnp.uint8(i), index)
            indices = [
                jnp.where(better, index_tap[i], kept)
                for index_tap, kept in zip(index_taps, indices, strict=True)
            ]
        indices = [*indices, index]
    column, row = indices
    return best, (row * jnp.uint8(window) + column, x[:0])


def _taps(
    x: jax.Array,
    fill: jax.Array | int,
    axis: int,
    before: int,
    after: int,
    window: int,
    stride: int,
    count: int,
) -> list[jax.Array]:
    """For each index in a window along ``axis``, the values of all windows there."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (before, after, 0)
    padded = lax.pad(x, jnp.asarray(fill, x.dtype), edges)
    reach = (count - 1) * stride + 1
    return [lax.slice_in_dim(padded, i, i + reach, stride, axis) for i in range(window)]


def _backward(
    window: int,
    stride: int,
    padding: int,
    residuals: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array]:
    indices, empty = residuals
    size = empty.shape[1:3]
    phase_size = [-(-length // stride) for length in size]

    def phase(a: int, b: int) -> jax.Array:
        """Gradient of the pixels ``stride * m + (a, b)``.

        Row ``i`` of the windows of row ``m + (a + padding - i) / stride`` covers them, and likewise
        column ``j``.
        """
        total = jnp.zeros((gradient.shape[0], *phase_size, gradient.shape[3]), gradient.dtype)
        for i in range((a + padding) % stride, window, stride):
            for j in range((b + padding) % stride, window, stride):
                is_maximum = indices == window * i + j
                chosen = jnp.where(is_maximum, gradient, jnp.zeros_like(gradient))
                shifts = ((a + padding - i) // stride, (b + padding - j) // stride)
                total += _shifted(chosen, shifts, phase_size)
        return total

    rows = [jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    interleaved = jnp.stack(rows, axis=2)  # [N, H / s, s, W / s, s, C]
    images, height, _, width, _, channels = interleaved.shape
    whole = interleaved.reshape(images, height * stride, width * stride, channels)
    return (whole[:, : size[0], : size[1]],)


def _shifted(x: jax.Array, shifts: tuple[int, int], size: list[int]) -> jax.Array:
    """``x[:, m + shift]`` for all ``m < size``, in both directions; zero outside of ``x``."""
    pads = [
        (-shift, count + shift - length, 0)
        for shift, count, length in zip(shifts, size, x.shape[1:3], strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


_max_pool.defvjp(_forward, _backward)
