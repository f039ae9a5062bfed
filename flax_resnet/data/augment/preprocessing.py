"""Preprocessing on the device: from stored pixels to the model's input."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from flax_resnet.transform import EvalTransform


@dataclass(frozen=True)
class Preprocessing:
    """Resizing and normalisation of stored pixels.

    Attributes:
        mean, std: Normalisation of each channel, for values in [0, 1].
        image_size: Height and width to resize to (bilinear, antialiased), or None. The result is
            not rounded to whole levels; it is within one level of PIL's, which is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None = None

    @classmethod
    def from_transform(cls, transform: EvalTransform) -> Preprocessing:
        """Return the device's half of ``transform``."""
        return cls(transform.mean, transform.std, transform.model_size)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Turn uint8 images ``[N, H, W, C]`` into normalised float32 ones."""
        pixels = images.astype(jnp.float32) / 255
        if self.image_size is not None:
            n, _, _, channels = images.shape
            shape = (n, self.image_size, self.image_size, channels)
            pixels = jax.image.resize(pixels, shape, "bilinear")
        mean, std = jnp.asarray(self.mean, jnp.float32), jnp.asarray(self.std, jnp.float32)
        return (pixels - mean) / std
