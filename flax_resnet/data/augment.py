"""Augmentation and preprocessing as pure functions that run under jit on the device."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax


@dataclass(frozen=True)
class Augmentation:
    """Random crop of the zero-padded image and random mirroring (He et al. 2015a, section 4.2).

    Attributes:
      crop_padding: zero pixels on each side before the crop; 0 for no crop.
      flip: mirror half of the images left to right.
    """

    crop_padding: int = 0
    flip: bool = False

    def __call__(self, key: jax.Array, images: jax.Array, place: jax.Array) -> jax.Array:
        """Augment images ``[N, H, W, C]``, each by its own key: ``key`` folded with ``place``
        ``[N]``, the example's position in the global batch. The dtype stays."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, place)
        return jax.vmap(self._augment_one)(keys, images)

    def _augment_one(self, key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if self.crop_padding:
            side = (self.crop_padding, self.crop_padding)
            padded = jnp.pad(image, (side, side, (0, 0)))
            top, left = jax.random.randint(crop_key, (2,), 0, 2 * self.crop_padding + 1)
            image = lax.dynamic_slice(padded, (top, left, 0), image.shape)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to the model's input.

    Attributes:
      mean, std: of each channel, on the scale 0 to 1.
      image_size: resize to this height and width (bilinear, antialiased), or None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None

    def __call__(self, images: jax.Array) -> jax.Array:
        """uint8 images ``[N, H, W, C]`` to normalised float32 ones."""
        pixels = images.astype(jnp.float32) / 255
        if self.image_size is not None:
            n, _, _, channels = images.shape
            shape = (n, self.image_size, self.image_size, channels)
            pixels = jax.image.resize(pixels, shape, "bilinear")
        return (pixels - jnp.asarray(self.mean)) / jnp.asarray(self.std)
