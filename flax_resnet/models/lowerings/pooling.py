"""Max-pool whose gradient is a choice of places, not a search.

XLA's gradient of ``reduce_window`` looks for each window's maximum again (select-and-scatter), in a
loop that XLA:CPU does not vectorise. Here the forward pass in training keeps one byte a window:
which of its places holds the maximum. The gradient of each phase of pixels (row and column modulo
the stride) is then a sum of a few selections, elementwise.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from . import onednn
from .table import FAMILIES


def max_pool(
    x: jax.Array, window: int, stride: int, padding: int = 0, conv_impl: str = "auto"
) -> jax.Array:
    """Maximum of each ``window`` by ``window`` pixels: ``[N, H, W, C]`` to ``[N, H', W', C]``.

    Args:
      x: floating.
      window, stride, padding: of both directions; padded pixels never win.
      conv_impl: as of :func:`convolve`; ``"reference"`` is ``nn.max_pool``. Where a window has
        its maximum more than once, the gradient goes to the first, row by row, in either way.
    """
    if "onednn" in FAMILIES[conv_impl]:
        pooled = onednn.max_pool(x, window, stride, padding)
        if pooled is not None:
            return pooled
    if "jax" in FAMILIES[conv_impl] and jax.default_backend() == "cpu" and x.size and window < 16:
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
    """Rows, then columns; beside the maxima, the place ``window * row + column`` of each, uint8
    ``[N, H', W', C]``, and nothing of ``x`` but its shape."""
    best, places = x, list[jax.Array]()
    for axis in (2, 1):
        count = (x.shape[axis] + 2 * padding - window) // stride + 1
        # Padded as far as the last window reaches; what no window reaches is cut off.
        after = (count - 1) * stride + window - padding - x.shape[axis]
        lowest = jnp.array(-jnp.inf, x.dtype)
        taps = _taps(best, lowest, axis, padding, after, window, stride, count)
        columns = [_taps(p, 0, axis, padding, after, window, stride, count) for p in places]
        best, places = taps[0], [column[0] for column in columns]
        place = jnp.zeros(best.shape, jnp.uint8)
        for i in range(1, window):
            better = taps[i] > best
            best = jnp.maximum(best, taps[i])
            place = jnp.where(better, jnp.uint8(i), place)
            places = [
                jnp.where(better, column[i], kept)
                for column, kept in zip(columns, places, strict=True)
            ]
        places = [*places, place]
    column, row = places
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
    """For each place of a window, the values that all windows have there."""
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
    places, empty = residuals
    size = empty.shape[1:3]
    phase_size = [-(-length // stride) for length in size]

    def phase(a: int, b: int) -> jax.Array:
        """Pixels ``stride * m + (a, b)``: there lies row ``i`` of the windows of row
        ``m + (a + padding - i) / stride``, and likewise column ``j``."""
        total = jnp.zeros((gradient.shape[0], *phase_size, gradient.shape[3]), gradient.dtype)
        for i in range((a + padding) % stride, window, stride):
            for j in range((b + padding) % stride, window, stride):
                here = places == window * i + j
                chosen = jnp.where(here, gradient, jnp.zeros_like(gradient))
                shifts = ((a + padding - i) // stride, (b + padding - j) // stride)
                total += _shifted(chosen, shifts, phase_size)
        return total

    rows = [jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)]
    interleaved = jnp.stack(rows, axis=2)  # [N, H / s, s, W / s, s, C]
    images, height, _, width, _, channels = interleaved.shape
    whole = interleaved.reshape(images, height * stride, width * stride, channels)
    return (whole[:, : size[0], : size[1]],)


def _shifted(x: jax.Array, shifts: tuple[int, int], size: list[int]) -> jax.Array:
    """``x[:, m + shift]`` for ``m`` below ``size``, along both directions; zero outside."""
    pads = [
        (-shift, count + shift - length, 0)
        for shift, count, length in zip(shifts, size, x.shape[1:3], strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))


_max_pool.defvjp(_forward, _backward)
