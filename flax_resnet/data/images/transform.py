"""Image files and arrays, resized and cropped as an ``EvalTransform`` describes it."""

from __future__ import annotations

import io
import threading

import numpy as np
from PIL import Image, ImageOps

from flax_resnet.data.images.decoding import (
    MAX_PIXELS,
    ImageDecodeError,
    ImageSource,
    to_rgb,
)
from flax_resnet.data.images.pixels import Pixels, resize_center_crop, thumbnail
from flax_resnet.errors import UserError
from flax_resnet.transform import EvalTransform

_loading = threading.Lock()  # one PIL image may be listed twice, and decodes its file lazily


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
        UserError: The transform has other channels than 1 or 3.
    """
    if transform.channels not in (1, 3):
        raise UserError(
            f"The model takes images of {transform.channels} channels, which image files do not "
            "have: give uint8 arrays [H, W, C]."
        )
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


def fit_image(image: np.ndarray | Image.Image, transform: EvalTransform) -> Pixels:
    """Transform an image in memory: of PIL, or an array uint8 ``[H, W]`` or ``[H, W, C]``.

    An image that has the transform's shape already is returned unchanged. There are 1, 3 or 4
    channels, or as many as the transform has; a fourth that it does not have is transparency, which
    is dropped as ``read_image`` does.

    Raises:
        ImageDecodeError: A PIL image cannot be decoded, or its range of values is not known.
        UserError: Another shape or type.
    """
    if isinstance(image, Image.Image):
        image = _pil_pixels(image)
    if image.shape[2:] == (4,) and transform.channels != 4:
        image = image[..., :3]
    if image.dtype == np.uint8 and image.shape[2:] == (transform.channels,):
        if image.shape[:2] == (transform.height, transform.width):
            return image
        if transform.channels not in (1, 3):  # each channel as a grey image
            single = transform.with_channels(1)
            channels = [fit_image(image[..., i], single) for i in range(transform.channels)]
            return np.concatenate(channels, axis=2)
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


def _pil_pixels(image: Image.Image) -> Pixels:
    """Return the upright pixels of a PIL image, uint8 ``[H, W, 3]``."""
    try:
        with _loading:
            image.load()
        return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    # Every exception is caught, as in ``open_image``.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageDecodeError("a PIL image", f"cannot be decoded ({detail})") from error
