"""Random erasing and cutout: a box of an image ``[H, W, C]`` is filled."""

import jax
import jax.numpy as jnp

from .boxes import Range, box_around_random_pixel, box_mask, random_erasing_box
from .geometry import Level


def random_erasing(
    key: jax.Array,
    image: jax.Array,
    probability: float,
    fill_value: Level = 0,
    noise: bool = False,
    scale: Range = (0.02, 0.33),
    ratio: Range = (0.3, 3.3),
) -> jax.Array:
    """Apply random erasing (Zhong et al. 2017) with torchvision's default parameters.

    With ``probability``, a box with a fraction of the area in ``scale`` and height / width in
    ``ratio`` is filled with ``fill_value`` or, with ``noise``, with uniform random levels.
    """
    apply_key, box_key, noise_key = jax.random.split(key, 3)
    height, width, _ = image.shape
    mask = box_mask(random_erasing_box(box_key, height, width, scale, ratio), height, width)
    mask &= jax.random.bernoulli(apply_key, jnp.float32(probability))
    levels = jnp.asarray(fill_value, image.dtype)
    if noise:
        levels = jax.random.bits(noise_key, image.shape, jnp.uint8).astype(image.dtype)
    return jnp.where(mask, levels, image)


def cutout(key: jax.Array, image: jax.Array, size: int, fill_value: Level = 0) -> jax.Array:
    """Apply cutout (DeVries & Taylor 2017): fill a square with sides of ``size`` pixels that is
    centred on a random pixel and may reach outside the image."""
    height, width, _ = image.shape
    mask = box_mask(box_around_random_pixel(key, height, width, size, size), height, width)
    return jnp.where(mask, jnp.asarray(fill_value, image.dtype), image)
