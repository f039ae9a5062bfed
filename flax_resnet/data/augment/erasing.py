"""Parts of an image ``[H, W, C]`` taken away."""

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
    """Random erasing (Zhong et al. 2017) with torchvision's parameters.

    With ``probability`` a box of ``scale`` of the area and of height / width in ``ratio`` is
    filled with ``fill_value`` or, with ``noise``, uniform random levels.
    """
    chance_key, box_key, noise_key = jax.random.split(key, 3)
    height, width, _ = image.shape
    mask = box_mask(random_erasing_box(box_key, height, width, scale, ratio), height, width)
    mask &= jax.random.bernoulli(chance_key, probability)
    levels = jnp.asarray(fill_value, image.dtype)
    if noise:
        levels = jax.random.bits(noise_key, image.shape, jnp.uint8).astype(image.dtype)
    return jnp.where(mask, levels, image)


def cutout(key: jax.Array, image: jax.Array, size: int, fill_value: Level = 0) -> jax.Array:
    """Cutout (DeVries & Taylor 2017): fill a square of ``size`` pixels a side about a random pixel;
    what of it lies outside the image is lost."""
    height, width, _ = image.shape
    mask = box_mask(box_around_random_pixel(key, height, width, size, size), height, width)
    return jnp.where(mask, jnp.asarray(fill_value, image.dtype), image)
