"""Max-pool and its gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .library import call

LARGEST_WINDOW = 15


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """The maximum of each ``window`` by ``window`` pixels, ``stride`` apart.

    Differentiable once, in reverse; of equal maxima the first, row by row, has the gradient.

    Args:
      x: float32 ``[N, H, W, C]``, not empty.
      window: at most :data:`LARGEST_WINDOW`.
      stride: of both directions.
      padding: pixels on each of the four sides that never win; at most half of the window.

    Returns:
      ``[N, H', W', C]``.

    Raises:
      ValueError: any of these does not fit the others.
      TypeError: another dtype.
    """
    return call("flax_resnet_max_pool", _result(x, window, stride, padding))(
        x, **_attributes(window, stride, padding)
    )


def _result(x: jax.Array, window: int, stride: int, padding: int) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the result. Raises what :func:`max_pool` says it raises."""
    if x.ndim != 4 or not (1 <= window <= LARGEST_WINDOW) or not (0 <= 2 * padding <= window):
        raise ValueError(
            f"max-pool takes images [N, H, W, C], a window of 1 to {LARGEST_WINDOW} pixels and a "
            f"padding of at most half of it, not {tuple(x.shape)}, {window} and {padding}"
        )
    if x.dtype != jnp.float32:
        raise TypeError(f"max-pool takes float32, not {x.dtype}")
    height, width = ((size + 2 * padding - window) // stride + 1 for size in x.shape[1:3])
    if min(x.shape[0], height, width, x.shape[3]) < 1:
        raise ValueError(f"no window of {window} pixels fits images {tuple(x.shape)}")
    return jax.ShapeDtypeStruct((x.shape[0], height, width, x.shape[3]), x.dtype)


def _attributes(window: int, stride: int, padding: int) -> dict[str, np.int64]:
    return {
        "window": np.int64(window),
        "stride": np.int64(stride),
        "padding": np.int64(padding),
    }


def _forward(x: jax.Array, window: int, stride: int, padding: int) -> Any:
    y = _result(x, window, stride, padding)
    places = jax.ShapeDtypeStruct(y.shape, jnp.uint8)  # of the maxima in their windows
    y, places = call("flax_resnet_max_pool", (y, places))(x, **_attributes(window, stride, padding))
    return y, (places, x[:0])


def _backward(window: int, stride: int, padding: int, kept: Any, dy: jax.Array) -> Any:
    places, empty = kept
    like_x = jax.ShapeDtypeStruct((dy.shape[0], *empty.shape[1:]), dy.dtype)
    gradient = call("flax_resnet_max_pool_gradient", like_x)
    return (gradient(dy, places, **_attributes(window, stride, padding)),)


max_pool.defvjp(_forward, _backward)
