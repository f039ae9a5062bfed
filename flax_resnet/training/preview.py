"""A picture of augmented training images."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ..config import Config
from ..data import Dataset, open_dataset, train_batches
from ..data.images import write_picture
from .build import build_augmentation

_GAP = 2  # pixels between images
_MIN_SIDE = 64  # smaller images are enlarged by the largest whole factor within this


def augment_preview(config: Config, path: Path, rows: int = 6, columns: int = 8) -> None:
    """Write the first images of the first training batch, augmented ``columns`` times.

    Each row is one image: first as it is stored (cropped, if it is decoded from a file), then as
    steps 0, 1, ... would see it.

    Args:
        config: The settings; data and augmentation are used.
        path: The picture's file.
        rows: Number of images.
        columns: Number of augmented versions of each.

    Raises:
        UserError: Data or settings are wrong, or the picture cannot be written.
    """
    dataset = open_dataset(config.data, config.augment)
    batches = train_batches(
        dataset.train,
        seed=config.seed,
        batch_size=rows,
        start=0,
        stop=1,
        random_crops=config.augment.random_resized_crop,
    )
    images = next(iter(batches))["image"]
    shown = [images, *augmented(config, dataset, [images] * columns)]
    side = max(max(column.shape[1:3]) for column in shown)
    strips = [
        np.concatenate([_tile(column[row], side) for column in shown], 1) for row in range(rows)
    ]
    grid = np.concatenate(strips)
    write_picture(Image.fromarray(grid), path)


def augmented(
    config: Config, dataset: Dataset, batches: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """Augment batches of images as steps 0, 1, ... do.

    Args:
        config: The settings; augmentation, image size and seed are used.
        dataset: The data set of the images.
        batches: The images of each step as they are stored, uint8 ``[N, H, W, C]``.

    Yields:
        The images that each step sees.
    """
    augment, mix = build_augmentation(config.augment, config.data.image_size, dataset)
    compiled = jax.jit(augment)
    for step, images in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        if config.augment.alternating_flip and step % 2:
            images = images[:, :, ::-1]
        seen = compiled(key, jnp.asarray(images), jnp.arange(len(images)))
        if mix is not None:
            seen, _ = mix(key, seen, jnp.ones((len(images), 1)), None)
        yield np.asarray(seen)


def _tile(image: np.ndarray, side: int) -> np.ndarray:
    """One image as RGB, centred on a white square of at least ``side`` pixels."""
    factor = max(1, _MIN_SIDE // side)
    pixels = image.repeat(factor, 0).repeat(factor, 1)
    height, width, _ = pixels.shape
    tile = np.full((side * factor + _GAP, side * factor + _GAP, 3), 255, np.uint8)
    top, left = (side * factor - height) // 2, (side * factor - width) // 2
    tile[top : top + height, left : left + width] = _as_rgb(pixels)
    return tile


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return ``[H, W, 3]``: grey channels repeated, or the first three channels of more."""
    if pixels.shape[2] >= 3:
        return pixels[..., :3]
    return pixels[..., :1].repeat(3, 2)
