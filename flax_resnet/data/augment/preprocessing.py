"""From stored pixels to the model's input."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to the model's input.

    Attributes:
      mean, std: of each channel, on the scale 0 to 1.
      image_size: resize to this height and width (bilinear, antialiased), or None. The result is
        not rounded to whole levels; it is within one level of PIL's, which is.
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
