"""Antialiased bilinear resizing of uint8 images as PIL does it, on the device.

Each new pixel is the mean of the old ones under a triangle whose half width is one old pixel, or
one new pixel where that is wider. Like PIL, columns come first and whole levels are kept between
the two passes, so that results differ from PIL's by a level at most, and seldom.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...errors import UserError
from .boxes import Box


def resize_center_crop(images: jax.Array, resize: int, crop: int) -> jax.Array:
    """The usual preparation for evaluation, for images that lie on the device as they are stored.

    The shorter side becomes ``resize``, the longer one in proportion (rounded down), and the
    middle ``crop`` x ``crop`` remains, as of torchvision's Resize and CenterCrop. Only what the
    crop shows is computed.

    Args:
      images: ``[N, H, W, C]`` uint8.

    Returns:
      ``[N, crop, crop, C]`` uint8.

    Raises:
      UserError: ``crop`` is larger than ``resize``.
    """
    if not 0 < crop <= resize:
        raise UserError(
            f"Centre crop of {crop} pixels out of a shorter side of {resize}: "
            "let the crop be from 1 to the resized side."
        )
    height, width = images.shape[1:3]
    shorter = min(height, width)
    to_rows, to_columns = (_cropped_weights(old, shorter, resize, crop) for old in (height, width))
    # The crop of a long image looks at its middle only.
    rows, columns = (np.flatnonzero(weights.any(axis=0)) for weights in (to_rows, to_columns))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return _resample(
        images[:, top:bottom, left:right],
        jnp.asarray(to_rows[:, top:bottom], jnp.float32),
        jnp.asarray(to_columns[:, left:right], jnp.float32),
    )


def resized_crop(image: jax.Array, box: Box, size: int) -> jax.Array:
    """The part of a uint8 image ``[H, W, C]`` inside ``box``, resized to ``[size, size, C]``.

    The box may be traced. Pixels outside it have no influence.
    """
    top, left, box_height, box_width = box
    height, width, _ = image.shape
    to_rows = _box_weights(height, top, box_height, size)
    to_columns = _box_weights(width, left, box_width, size)
    return _resample(image[None], to_rows, to_columns)[0]


def _cropped_weights(old: int, shorter: int, resize: int, crop: int) -> np.ndarray:
    """Weights ``[crop, old]`` of one axis, float64."""
    new = resize * old // shorter
    start = round((new - crop) / 2)  # half to even, as torchvision's
    support = max(old / new, 1.0)
    centre = (np.arange(start, start + crop) + 0.5) * (old / new)
    distance = np.abs(np.arange(old) + 0.5 - centre[:, None]) / support
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _box_weights(old: int, start: jax.Array, length: jax.Array, new: int) -> jax.Array:
    """Weights ``[new, old]`` of one axis for the part of ``length`` from ``start``, float32."""
    ratio = length.astype(jnp.float32) / new
    support = jnp.maximum(ratio, 1)
    pixel = jnp.arange(old)
    # Measured from the box's edge, so that the numbers are small and exact wherever the box lies.
    centre = (jnp.arange(new, dtype=jnp.float32) + 0.5) * ratio
    distance = (pixel - start).astype(jnp.float32) + 0.5 - centre[:, None]
    inside = (start <= pixel) & (pixel < start + length)
    weights = jnp.where(inside, jnp.maximum(1 - jnp.abs(distance) / support, 0), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _resample(images: jax.Array, to_rows: jax.Array, to_columns: jax.Array) -> jax.Array:
    """``[N, H, W, C]`` uint8 by weights ``[new, H]`` and ``[new, W]``."""
    exact = lax.Precision.HIGHEST  # an accelerator's own choice would be off by levels
    pixels = images.astype(jnp.float32)
    pixels = jnp.einsum("nhwc,ow->nhoc", pixels, to_columns, precision=exact)
    pixels = jnp.floor(pixels + 0.5)
    pixels = jnp.einsum("nhwc,oh->nowc", pixels, to_rows, precision=exact)
    return jnp.floor(pixels + 0.5).astype(images.dtype)
