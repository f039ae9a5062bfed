"""One image file to pixels: decoded whole, or the crop that training or evaluation asks for.

Pillow reads the header and does the work, but for the usual JPEGs, which `jpeg` does faster. Both
let go of the interpreter's lock while they decode and resize, so threads run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from flax_resnet.data.images import jpeg
from flax_resnet.data.images.crops import DRAWS, Box, box_of, checked_draws, crop_box
from flax_resnet.data.images.decoding import (
    FORMATS,
    MAX_PIXELS,
    UPRIGHT,
    BadImage,
    Content,
    named,
    opened,
    opened_bytes,
    orientation,
    to_rgb,
)

__all__ = [
    "DRAWS",
    "FORMATS",
    "MAX_PIXELS",
    "BadImage",
    "Box",
    "Content",
    "ImageHeader",
    "Interpolation",
    "Pixels",
    "crop_box",
    "random_resized_crop",
    "read_header",
    "read_image",
    "resize_center_crop",
    "thumbnail",
]

Pixels = npt.NDArray[np.uint8]
Interpolation = Literal["bilinear", "bicubic"]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where what is cropped from it stays this many
# times the target. 1 is fastest, and in training the difference to full decoding (1 to 4 of 255
# on average where there is detail in every pixel, less in soft photos) drowns in the
# augmentation. The numbers of an evaluation are compared with other people's: at 3 the
# difference is less than 1, and mostly less than a half.
_TRAINING_MARGIN = 1
_EVALUATION_MARGIN = 3
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageHeader:
    """What the beginning of an image file says; height and width in pixels, when upright.

    Attributes:
        format: one of `FORMATS`.
    """

    format: str
    height: int
    width: int


_Choice = tuple[Box, Box, tuple[int, int]]
"""A box, what a filter may see around it, and (height, width) of the result; all upright."""

_Plan = tuple[int, tuple[int, int, int, int], tuple[float, float, float, float]]
"""1 / the scale to decode at, and left, top, right and bottom there: of what is seen, and of what
is resized, counted from the corner of the former."""


def read_header(content: Content, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Return format and size without decoding.

    Raises:
        BadImage: as for `read_image`, as far as the header tells.
    """
    with opened(content, max_pixels) as image:
        height, width = _upright_size(image)
        # MPO is a JPEG with further pictures behind the first, as some phones write them.
        name = "JPEG" if image.format in (None, "MPO") else str(image.format)
        return ImageHeader(name, height, width)


def read_image(content: Content, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode a JPEG, PNG, WebP, BMP, GIF (the first frame) or TIFF to uint8 [H, W, 3].

    Colours are those of Pillow's `convert("RGB")`, and so of torchvision and timm: grey is
    repeated, palettes are looked up, transparency is dropped (the colour below it shows), CMYK
    is converted without a profile. Unlike there, 16 bits of grey are scaled to 8 and not
    clipped, and the EXIF orientation is applied.

    Args:
        max_pixels: most pixels a file may have by its header. Pillow itself refuses twice
            `PIL.Image.MAX_IMAGE_PIXELS`, 179 million.

    Raises:
        BadImage: not such a file, damaged, cut off, too many pixels, or not to be read.
    """

    def all_of_it(height: int, width: int) -> _Choice:
        whole = Box(0, 0, height, width)
        return whole, whole, (height, width)

    return _pixels(content, max_pixels, all_of_it)


def random_resized_crop(
    content: Content,
    draws: npt.ArrayLike,
    size: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bilinear",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Crop a random part and resize it, antialiased, to uint8 [size, size, 3].

    Args:
        draws: see `crop_box`.
        scale, ratio: see `crop_box`.

    Raises:
        BadImage: as for `read_image`.
        ValueError: draws that `crop_box` does not take.
    """
    checked = checked_draws(draws)

    def crop(height: int, width: int) -> _Choice:
        box = box_of(height, width, checked, scale, ratio)
        # Resizing sees nothing outside the box: torchvision crops first.
        return box, box, (size, size)

    return _pixels(content, max_pixels, crop, interpolation, _TRAINING_MARGIN)


def resize_center_crop(
    content: Content,
    resize: int,
    crop: int,
    *,
    interpolation: Interpolation = "bilinear",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Resize the shorter side, antialiased, and crop the middle: uint8 [crop, crop, 3].

    Sizes and places are rounded as torchvision rounds them.

    Args:
        resize: the shorter side after resizing, in pixels, at least `crop`.

    Raises:
        BadImage: as for `read_image`.
        ValueError: `resize` is less than `crop`, or `crop` less than 1.
    """
    if not 1 <= crop <= resize:
        raise ValueError(f"resize to {resize} and crop of {crop}: 1 <= crop <= resize")

    def middle(height: int, width: int) -> _Choice:
        shorter = min(height, width)
        tall, wide = int(resize * height / shorter), int(resize * width / shorter)
        top, left = round((tall - crop) / 2), round((wide - crop) / 2)
        # Only the crop is computed, from its part of the image and the pixels around
        # that part which the filter reaches.
        down, across = height / tall, width / wide
        box = Box(top * down, left * across, crop * down, crop * across)
        whole = Box(0, 0, height, width)
        return box, whole, (crop, crop)

    return _pixels(content, max_pixels, middle, interpolation)


def thumbnail(content: Content, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Squeeze the whole image to uint8 [*size, 3], whatever its proportions.

    Raises:
        BadImage: as for `read_image`.
    """

    def all_of_it(height: int, width: int) -> _Choice:
        whole = Box(0, 0, height, width)
        return whole, whole, size

    return _pixels(content, max_pixels, all_of_it)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width)."""
    width, height = image.size
    return (width, height) if orientation(image) in _SIDEWAYS else (height, width)


def _pixels(
    content: Content,
    max_pixels: int,
    choose: Callable[[int, int], _Choice],
    interpolation: Interpolation = "bilinear",
    margin: int = _EVALUATION_MARGIN,
) -> Pixels:
    """Return uint8 [*size, 3] of what is chosen of an image, given its height and width."""
    name, data = named(content)
    # The usual JPEG needs nothing of Pillow, whose opening takes a tenth of the time.
    stored = jpeg.plain_size(data)
    if stored is not None and math.prod(stored) <= min(max_pixels, MAX_PIXELS):
        box, visible, size = choose(*stored)
        plan = _planned(box, visible, size, margin)
        pixels = _from_jpeg(data, stored, plan, size, interpolation, margin)
        if pixels is not None:
            return pixels
    with opened_bytes(name, data, max_pixels) as image:
        again = data if stored is None else None
        return _resampled(image, again, *choose(*_upright_size(image)), interpolation, margin)


def _as_stored(box: Box, upright: tuple[int, int], turned: int) -> Box:
    """Return where a box of the upright image lies in the stored one."""
    height, width = upright
    left = width - box.left - box.width if turned in (2, 3, 6, 7) else box.left
    top = height - box.top - box.height if turned in (3, 4, 7, 8) else box.top
    if turned in _SIDEWAYS:
        return Box(left, top, box.width, box.height)
    return Box(top, left, box.height, box.width)


def _planned(box: Box, visible: Box, size: tuple[int, int], margin: int | None) -> _Plan:
    """Return how to decode and cut an image so that `box` can be resized to `size`; without a
    margin it is decoded in its own size."""
    fit = 0 if margin is None else min(box.height / size[0], box.width / size[1]) / margin
    shrink = 1 if fit < 2 else 2 if fit < 4 else 4 if fit < 8 else 8
    # The scale is 1 / shrink exactly, though the last pixel may reach over the edge.
    left, top = math.floor(visible.left / shrink), math.floor(visible.top / shrink)
    right = math.ceil((visible.left + visible.width) / shrink)
    bottom = math.ceil((visible.top + visible.height) / shrink)
    # min: rounding must not carry the box over the edge, which is refused.
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
    """Return a part of a JPEG, uint8 [*size, 3], as it is stored; None: only Pillow may read it."""
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
    """Resize `box` to uint8 [*size, 3]; the filter may reach beyond it into `visible`.

    Both boxes are of the upright image; `visible` has whole numbers. `data` is the file, unless
    `jpeg` could not read it.
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
            if turned in UPRIGHT:
                return np.array(Image.fromarray(pixels).transpose(UPRIGHT[turned]))
            return pixels
    shrink, outer, inner = plan
    if shrink > 1:
        image.draft(None, (image.width // shrink, image.height // shrink))
    if outer != (0, 0, *image.size):
        image = image.crop(outer)
    image = to_rgb(image).resize((width, height), _FILTERS[interpolation], box=inner)
    if turned in UPRIGHT:
        image = image.transpose(UPRIGHT[turned])
    return np.array(image)
