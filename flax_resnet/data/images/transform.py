"""Image files and arrays, resized and cropped as an ``EvalTransform`` describes it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from flax_resnet.data.images.decoding import MAX_PIXELS, ImageSource
from flax_resnet.data.images.pixels import Pixels, resize_center_crop, thumbnail
from flax_resnet.errors import UserError
from flax_resnet.transform import EvalTransform


def load_image(
    content: ImageSource, transform: EvalTransform, *, max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Decode an image file to uint8 ``[height, width, channels]``.

    Args:
        content: The bytes of the file, or its path.
        transform: Size, crop, interpolation and channels of the result.
        max_pixels: Largest number of pixels that the file may have, see ``read_image``.

    Raises:
        ImageDecodeError: As for ``read_image``.
    """
    if transform.resize is None:
        size = transform.height, transform.width
        pixels = thumbnail(
            content, size, interpolation=transform.interpolation, max_pixels=max_pixels
        )
    else:
        pixels = resize_center_crop(
            content,
            transform.resize,
            transform.height,
            interpolation=transform.interpolation,
            crop_offset=transform.crop_offset,
            max_pixels=max_pixels,
        )
    if transform.channels == 1:
        return np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
    return pixels


def fit_image(image: np.ndarray, transform: EvalTransform) -> Pixels:
    """Transform an image in memory, uint8 ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]``.

    An image that has the transform's shape already is returned unchanged.

    Raises:
        UserError: Another shape or type.
    """
    grey = image.shape[2:] in ((), (1,))
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not (grey or image.shape[2:] == (3,)):
        raise UserError(
            f"an image is {image.dtype} {list(image.shape)}: give uint8 (0 to 255) [H, W], "
            "[H, W, 1] or [H, W, 3]"
        )
    shape = (*image.shape[:2], 1) if grey else image.shape
    if shape == (transform.height, transform.width, transform.channels):
        return image.reshape(shape)
    file = io.BytesIO()  # encoded, so that one function transforms files and arrays
    Image.fromarray(image.reshape(image.shape[:2]) if grey else image).save(file, "BMP")
    return load_image(file.getvalue(), transform)
