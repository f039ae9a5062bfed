"""Antialiased bilinear resizing of uint8 images on the device, as in PIL.

Each new pixel is the mean of the old pixels under a triangle whose half width is one old pixel or
one new pixel, whichever is larger. As in PIL, the columns are resized first, and the result is
rounded to whole levels before the rows, so that results rarely differ from PIL's, and then by one
level.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...errors import UserError
from .boxes import Box


def resize_center_crop(images: jax.Array, resize: int, crop: int) -> jax.Array:
    """Resize the shorter side of stored images on the device, and crop their centre.

    The shorter side becomes ``resize`` and the longer one is scaled in proportion (rounded down);
    then the central ``crop`` x ``crop`` pixels are cropped, as by torchvision's Resize and
    CenterCrop. Only the pixels of the crop are computed.

    Args:
        images: uint8 ``[N, H, W, C]``.
        resize: Length of the shorter side after resizing.
        crop: Height and width of the result.

    Returns:
        uint8 ``[N, crop, crop, C]``.

    Raises:
        UserError: ``crop`` is larger than ``resize``, or less than 1.
    """
    if not 0 < crop <= resize:
        raise UserError(
            f"Centre crop of {crop} pixels out of a shorter side of {resize}: "
            "let the crop be from 1 to the resized side."
        )
    height, width = images.shape[1:3]
    shorter = min(height, width)
    to_rows, to_columns = (_cropped_weights(old, shorter, resize, crop) for old in (height, width))
    # Only the rows and columns with a weight are needed.
    rows, columns = (np.flatnonzero(weights.any(axis=0)) for weights in (to_rows, to_columns))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return _resample(
        images[:, top:bottom, left:right],
        jnp.asarray(to_rows[:, top:bottom], jnp.float32),
        jnp.asarray(to_columns[:, left:right], jnp.float32),
    )


def resized_crop(image: jax.Array, box: Box, size: int) -> jax.Array:
    """Resize the box of a uint8 image ``[H, W, C]`` to ``[size, size, C]``.

    The box may be traced. Pixels outside it have no influence.
    """
    top, left, box_height, box_width = box
    height, width, _ = image.shape
    to_rows = _box_weights(height, top, box_height, size)
    to_columns = _box_weights(width, left, box_width, size)
    return _resample(image[None], to_rows, to_columns)[0]


def _cropped_weights(old: int, shorter: int, resize: int, crop: int) -> np.ndarray:
    """Return the weights of one axis for the centre crop, float64 ``[crop, old]``."""
    new = resize * old // shorter
    start = round((new - crop) / 2)  # rounds half to even, as torchvision does
    support = max(old / new, 1.0)
    centre = (np.arange(start, start + crop) + 0.5) * (old / new)
    distance = np.abs(np.arange(old) + 0.5 - centre[:, None]) / support
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _box_weights(old: int, start: jax.Array, length: jax.Array, new: int) -> jax.Array:
    """Return one axis's weights for ``length`` pixels from ``start``, float32 ``[new, old]``."""
    ratio = length.astype(jnp.float32) / new
    support = jnp.maximum(ratio, 1)
    pixel = jnp.arange(old)
    # Measured from the edge of the box, so that the numbers are small and exact for every box.
    centre = (jnp.arange(new, dtype=jnp.float32) + 0.5) * ratio
    distance = (pixel - start).astype(jnp.float32) + 0.5 - centre[:, None]
    inside = (start <= pixel) & (pixel < start + length)
    weights = jnp.where(inside, jnp.maximum(1 - jnp.abs(distance) / support, 0), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _resample(images: jax.Array, to_rows: jax.Array, to_columns: jax.Array) -> jax.Array:
    """Resample uint8 ``[N, H, W, C]`` with the weights ``[new, H]`` and ``[new, W]``."""
    exact = lax.Precision.HIGHEST  # with the default precision an accelerator would be levels off
    pixels = images.astype(jnp.float32)
    pixels = jnp.einsum("nhwc,ow->nhoc", pixels, to_columns, precision=exact)
    pixels = jnp.floor(pixels + 0.5)
    pixels = jnp.einsum("nhwc,oh->nowc", pixels, to_rows, precision=exact)
    return jnp.floor(pixels + 0.5).astype(images.dtype)
