"""Decoding of one image file to pixels: the whole image, a random crop, or a center crop.

Pillow reads the header and decodes; ``jpeg`` is a faster path for ordinary JPEG files. Both release
the interpreter lock while they decode and resize, so that several threads run in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from flax_resnet.data.images import jpeg
from flax_resnet.data.images.crops import Box, box_of, checked_uniforms
from flax_resnet.data.images.decoding import (
    EXIF_TRANSPOSE,
    MAX_PIXELS,
    ImageSource,
    name_and_bytes,
    open_image,
    open_image_bytes,
    orientation,
    to_rgb,
)
from flax_resnet.transform import CropOffset, Interpolation

Pixels = npt.NDArray[np.uint8]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the cropped region then still has this many
# times the target's size. 1 is fastest: in training the difference to full decoding (1 to 4 of
# 255 on average if every pixel has detail, less in soft photos) is small next to the
# augmentation. Results of an evaluation are compared with other implementations: at 3 the
# difference is less than 1, and usually less than a half.
_TRAINING_MARGIN = 1
_EVALUATION_MARGIN = 3
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """Format and size of an image file, from its header.

    Attributes:
        format: One of ``FORMATS``.
        height, width: Size of the upright image, in pixels.
    """

    format: str
    height: int
    width: int


_Choice = tuple[Box, Box, tuple[int, int]]
"""For the upright image: the box to resize, the box that the filter may read around it, and
``(height, width)`` of the result."""

_Plan = tuple[int, tuple[int, int, int, int], tuple[float, float, float, float]]
"""1 / the scale to decode at, then left, top, right and bottom at this scale: of the region that is
read, and of the region that is resized, measured from the corner of the former."""


def read_header(content: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the format and the size of an image without decoding it.

    Raises:
        ImageDecodeError: As for ``read_image``, as far as the header shows it.
    """
    with open_image(content, max_pixels) as image:
        height, width = _upright_size(image)
        # MPO is a JPEG file with more pictures after the first, as some phones write it.
        name = "JPEG" if image.format in (None, "MPO") else str(image.format)
        return ImageHeader(name, height, width)


def read_image(content: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image file of one of ``FORMATS`` (GIF: first frame) to uint8 ``[H, W, 3]``.

    Colors are those of Pillow's ``convert("RGB")``, which torchvision and timm use too: gray is
    repeated, palettes are looked up, transparency is dropped (the color below it shows), CMYK is
    converted without a profile. Two things differ: 16-bit gray is scaled to 8 bits instead of
    being clipped, and the EXIF orientation is applied.

    Args:
        content: The bytes of the file, or its path.
        max_pixels: Largest number of pixels that the header may give. Pillow itself refuses
            more than twice ``PIL.Image.MAX_IMAGE_PIXELS``, 179 million.

    Raises:
        ImageDecodeError: The file cannot be read, has another format, is damaged or truncated, or
            has too many pixels.
    """

    def whole_image(height: int, width: int) -> _Choice:
        whole = Box(0, 0, height, width)
        return whole, whole, (height, width)

    return _pixels(content, max_pixels, whole_image)


def random_resized_crop(
    content: ImageSource,
    crop_uniforms: npt.ArrayLike,
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bilinear",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Decode a random crop and resize it, antialiased, to uint8 ``[size, size, 3]``.

    Args:
        content: The bytes of the file, or its path.
        crop_uniforms: Random numbers that determine the crop, see ``crop_box``.
        size: Height and width of the result.
        scale, ratio: Limits of the crop, see ``crop_box``.
        interpolation: Filter of the resizing.
        max_pixels: As for ``read_image``.

    Raises:
        ImageDecodeError: As for ``read_image``.
        ValueError: ``crop_box`` does not take these ``crop_uniforms``.
    """
    checked = checked_uniforms(crop_uniforms)

    def crop(height: int, width: int) -> _Choice:
        box = box_of(height, width, checked, scale, ratio)
        # The filter reads nothing outside the box, because torchvision crops first.
        return box, box, (size, size)

    return _pixels(content, max_pixels, crop, interpolation, _TRAINING_MARGIN)


def resize_center_crop(
    content: ImageSource,
    resize: int,
    crop: int,
    *,
    interpolation: Interpolation = "bilinear",
    crop_offset: CropOffset = "nearest",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Resize the shorter side, antialiased, and crop the center: uint8 ``[crop, crop, 3]``.

    Sizes are rounded as torchvision rounds them.

    Args:
        content: The bytes of the file, or its path.
        resize: Length of the shorter side after resizing, in pixels, at least ``crop``.
        crop: Height and width of the result.
        interpolation: Filter of the resizing.
        crop_offset: Rounding of the crop's offset, see ``EvalTransform``.
        max_pixels: As for ``read_image``.

    Raises:
        ImageDecodeError: As for ``read_image``.
        ValueError: ``resize`` is less than ``crop``, or ``crop`` is less than 1.
    """
    if not 1 <= crop <= resize:
        raise ValueError(
            f"resize={resize} and crop={crop}: crop must be at least 1 and at most resize"
        )

    def center(height: int, width: int) -> _Choice:
        shorter = min(height, width)
        new_height, new_width = int(resize * height / shorter), int(resize * width / shorter)
        rounded = round if crop_offset == "nearest" else math.floor
        top, left = rounded((new_height - crop) / 2), rounded((new_width - crop) / 2)
        # Only the crop is computed, from its region of the image and the pixels around that
        # region which the filter reaches.
        down, across = height / new_height, width / new_width
        box = Box(top * down, left * across, crop * down, crop * across)
        whole = Box(0, 0, height, width)
        return box, whole, (crop, crop)

    return _pixels(content, max_pixels, center, interpolation)


def thumbnail(
    content: ImageSource,
    size: tuple[int, int],
    *,
    interpolation: Interpolation = "bilinear",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Squeeze the whole image to uint8 ``[*size, 3]``, regardless of its proportions.

    Raises:
        ImageDecodeError: As for ``read_image``.
    """

    def whole_image(height: int, width: int) -> _Choice:
        whole = Box(0, 0, height, width)
        return whole, whole, size

    return _pixels(content, max_pixels, whole_image, interpolation)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return ``(height, width)`` of the image when it is upright."""
    width, height = image.size
    return (width, height) if orientation(image) in _SIDEWAYS else (height, width)


def _pixels(
    content: ImageSource,
    max_pixels: int,
    choose: Callable[[int, int], _Choice],
    interpolation: Interpolation = "bilinear",
    margin: int = _EVALUATION_MARGIN,
) -> Pixels:
    """Return uint8 ``[*size, 3]`` of the region that ``choose(height, width)`` returns."""
    name, data = name_and_bytes(content)
    # An ordinary JPEG does not need Pillow, whose opening would take a tenth of the time.
    stored = jpeg.plain_size(data)
    if stored is not None and math.prod(stored) <= min(max_pixels, MAX_PIXELS):
        box, visible, size = choose(*stored)
        plan = _planned(box, visible, size, margin)
        pixels = _from_jpeg(data, stored, plan, size, interpolation, margin)
        if pixels is not None:
            return pixels
    with open_image_bytes(name, data, max_pixels) as image:
        again = data if stored is None else None
        return _resampled(image, again, *choose(*_upright_size(image)), interpolation, margin)


def _as_stored(box: Box, upright: tuple[int, int], turned: int) -> Box:
    """Return the box of the stored image that shows a box of the upright one."""
    height, width = upright
    left, top = box.left, box.top
    # max: rounding must not move the box beyond the edge, as in ``_planned``.
    if turned in (2, 3, 6, 7):
        left = max(0.0, width - box.left - box.width)
    if turned in (3, 4, 7, 8):
        top = max(0.0, height - box.top - box.height)
    if turned in _SIDEWAYS:
        return Box(left, top, box.width, box.height)
    return Box(top, left, box.height, box.width)


def _planned(box: Box, visible: Box, size: tuple[int, int], margin: int | None) -> _Plan:
    """Return how to decode and crop an image so that ``box`` can be resized to ``size``.

    Without a margin the image is decoded in its own size.
    """
    fit = 0 if margin is None else min(box.height / size[0], box.width / size[1]) / margin
    shrink = 1 if fit < 2 else 2 if fit < 4 else 4 if fit < 8 else 8
    # The scale is exactly 1 / shrink, although the last pixel may extend beyond the edge.
    left, top = math.floor(visible.left / shrink), math.floor(visible.top / shrink)
    right = math.ceil((visible.left + visible.width) / shrink)
    bottom = math.ceil((visible.top + visible.height) / shrink)
    # min: rounding must not move the box beyond the edge, which the resizers refuse.
    inner = (
        box.left / shrink - left,
        box.top / shrink - top,
        min((box.left + box.width) / shrink - left, right - left),
        min((box.top + box.height) / shrink - top, bottom - top),
    )
    return shrink, (left, top, right, bottom), inner


def _from_jpeg(
    data: bytes,
    stored: tuple[int, int],
    plan: _Plan,
    size: tuple[int, int],
    interpolation: Interpolation,
    margin: int,
) -> Pixels | None:
    """Return a resized region of a stored JPEG, uint8 ``[*size, 3]``, or None if ``jpeg`` cannot
    read the file and Pillow must."""
    shrink, (left, top, right, bottom), inner = plan
    quick = margin == _TRAINING_MARGIN
    whole = jpeg.decode(data, stored, shrink, rows=bottom, quick=quick)
    if whole is None:
        return None
    return jpeg.resize(whole[top:bottom, left:right], inner, size, interpolation)


def _resampled(
    image: Image.Image,
    data: bytes | None,
    box: Box,
    visible: Box,
    size: tuple[int, int],
    interpolation: Interpolation,
    margin: int,
) -> Pixels:
    """Resize ``box`` to uint8 ``[*size, 3]``; the filter may read beyond it, inside ``visible``.

    Both boxes refer to the upright image, and ``visible`` has whole numbers. ``data`` is the file,
    or None if ``jpeg`` could not read it.
    """
    turned, upright = orientation(image), _upright_size(image)
    box, visible = _as_stored(box, upright, turned), _as_stored(visible, upright, turned)
    height, width = size[::-1] if turned in _SIDEWAYS else size
    is_jpeg = image.format in ("JPEG", "MPO")
    stored = image.height, image.width
    plan = _planned(box, visible, (height, width), margin if is_jpeg else None)
    if data is not None and is_jpeg and image.mode in ("RGB", "L"):
        pixels = _from_jpeg(data, stored, plan, (height, width), interpolation, margin)
        if pixels is not None:
            if turned in EXIF_TRANSPOSE:
                return np.array(Image.fromarray(pixels).transpose(EXIF_TRANSPOSE[turned]))
            return pixels
    shrink, outer, inner = plan
    if shrink > 1:
        image.draft(None, (image.width // shrink, image.height // shrink))
    if outer != (0, 0, *image.size):
        image = image.crop(outer)
    image = to_rgb(image).resize((width, height), _FILTERS[interpolation], box=inner)
    if turned in EXIF_TRANSPOSE:
        image = image.transpose(EXIF_TRANSPOSE[turned])
    return np.array(image)
