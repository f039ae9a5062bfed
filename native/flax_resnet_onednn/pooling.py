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
    """Computes the maximum of each window of images.

    The function is differentiable once, in reverse mode. Of equal maxima, the first in row-major
    order gets the gradient.

    Args:
        x: Images ``[N, H, W, C]``, float32 and not empty.
        window: The side of the window, at most ``LARGEST_WINDOW``.
        stride: The stride along both axes.
        padding: The width of the padding with -inf on each of the four sides, at most half of the
            window.

    Returns:
        ``[N, H', W', C]``.

    Raises:
        ValueError: The shape, window or padding do not fit together.
        TypeError: The dtype is not float32.
    """
    return call("flax_resnet_max_pool", _result(x, window, stride, padding))(
        x, **_attributes(window, stride, padding)
    )


def _result(x: jax.Array, window: int, stride: int, padding: int) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of the result, or raises the exceptions of ``max_pool``."""
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
    """Returns the options as attributes of a custom call."""
    return {
        "window": np.int64(window),
        "stride": np.int64(stride),
        "padding": np.int64(padding),
    }


def _forward(x: jax.Array, window: int, stride: int, padding: int) -> Any:
    y = _result(x, window, stride, padding)
    # The index of each maximum within its window.
    indices = jax.ShapeDtypeStruct(y.shape, jnp.uint8)
    pool = call("flax_resnet_max_pool", (y, indices))
    y, indices = pool(x, **_attributes(window, stride, padding))
    return y, (indices, x[:0])  # Of x the gradient needs only the shape.


def _backward(window: int, stride: int, padding: int, residuals: Any, dy: jax.Array) -> Any:
    indices, empty = residuals
    like_x = jax.ShapeDtypeStruct((dy.shape[0], *empty.shape[1:]), dy.dtype)
    gradient = call("flax_resnet_max_pool_gradient", like_x)
    return (gradient(dy, indices, **_attributes(window, stride, padding)),)


max_pool.defvjp(_forward, _backward)
