"""One image file to pixels: decoded whole, or the crop that training or evaluation asks for.

Pillow reads the header and does the work, but for the usual JPEGs, which `jpeg` does faster. Both
let go of the interpreter's lock while they decode and resize, so threads run side by side.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from flax_resnet.data import jpeg
from flax_resnet.data.decoding import (
    FORMATS,
    MAX_PIXELS,
    UPRIGHT,
    BadImage,
    Content,
    opened,
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

DRAWS = 22
"""Draws for torchvision's ten tries: two for the place, two for each try."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where what is cropped from it stays this many
# times the target. 1 is fastest, and in training the difference to full decoding (1 to 4 of 255
# on average where there is detail in every pixel, less in soft photos) drowns in the
# augmentation. The numbers of an evaluation are compared with other people's: at 3 the
# difference is less than 1, and mostly less than a half.
_TRAINING_MARGIN = 1
_EVALUATION_MARGIN = 3


@dataclass(frozen=True)
class ImageHeader:
    """What the beginning of an image file says; height and width in pixels, when upright.

    Attributes:
        format: one of `FORMATS`.
    """

    format: str
    height: int
    width: int


@dataclass(frozen=True)
class Box:
    """A part of an image, in pixels."""

    top: float
    left: float
    height: float
    width: float


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
    with opened(content, max_pixels) as image:
        height, width = _upright_size(image)
        whole = Box(0, 0, height, width)
        return _resampled(image, whole, whole, (height, width))


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
    draws = _checked_draws(draws)
    with opened(content, max_pixels) as image:
        box = crop_box(*_upright_size(image), draws, scale=scale, ratio=ratio)
        # Resizing sees nothing outside the box: torchvision crops first.
        return _resampled(image, box, box, (size, size), interpolation, _TRAINING_MARGIN)


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
    with opened(content, max_pixels) as image:
        height, width = _upright_size(image)
        shorter = min(height, width)
        tall, wide = int(resize * height / shorter), int(resize * width / shorter)
        top, left = round((tall - crop) / 2), round((wide - crop) / 2)
        # Only the crop is computed, from its part of the image and the pixels around
        # that part which the filter reaches.
        down, across = height / tall, width / wide
        box = Box(top * down, left * across, crop * down, crop * across)
        whole = Box(0, 0, height, width)
        return _resampled(image, box, whole, (crop, crop), interpolation, _EVALUATION_MARGIN)


def thumbnail(content: Content, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Squeeze the whole image to uint8 [*size, 3], whatever its proportions.

    Raises:
        BadImage: as for `read_image`.
    """
    with opened(content, max_pixels) as image:
        whole = Box(0, 0, *_upright_size(image))
        return _resampled(image, whole, whole, size, margin=_EVALUATION_MARGIN)


def crop_box(
    height: int,
    width: int,
    draws: npt.ArrayLike,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Choose a part of an image, as Szegedy et al. 2015 ("Going deeper with convolutions").

    The area is uniform in `scale`, the aspect ratio log-uniform in `ratio`, the place uniform. A
    try whose box does not fit gives way to the next; after the last, the box is the largest in
    the middle whose aspect ratio is within `ratio`. All as in torchvision.

    Args:
        height, width: of the image, in pixels.
        draws: float [k] in [0, 1), k even and at least 4: top and left, then area and aspect
            ratio of each try. `DRAWS` gives torchvision's ten tries.
        scale: least and largest share of the image's area.
        ratio: least and largest width / height.

    Raises:
        ValueError: other draws.
    """
    (down, across), *tries = _checked_draws(draws).reshape(-1, 2).tolist()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, ratio_draw in tries:
        area = height * width * (scale[0] + area_draw * (scale[1] - scale[0]))
        aspect = math.exp(low + ratio_draw * (high - low))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(down * (height - tall + 1))
            left = int(across * (width - wide + 1))
            return Box(top, left, tall, wide)
    tall, wide = height, width
    if width / height < ratio[0]:
        tall = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def _checked_draws(draws: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(draws, np.float64)
    if array.ndim != 1 or len(array) < 4 or len(array) % 2:
        raise ValueError(f"draws of shape {list(array.shape)}: an even number, at least 4")
    if not ((array >= 0) & (array < 1)).all():
        raise ValueError("draws must be at least 0 and less than 1")
    return array


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width)."""
    width, height = image.size
    return (width, height) if orientation(image) in (5, 6, 7, 8) else (height, width)


def _as_stored(box: Box, image: Image.Image) -> Box:
    """Return where a box of the upright image lies in the stored one."""
    turned = orientation(image)
    height, width = _upright_size(image)
    left = width - box.left - box.width if turned in (2, 3, 6, 7) else box.left
    top = height - box.top - box.height if turned in (3, 4, 7, 8) else box.top
    if turned in (5, 6, 7, 8):
        return Box(left, top, box.width, box.height)
    return Box(top, left, box.height, box.width)


def _resampled(
    image: Image.Image,
    box: Box,
    visible: Box,
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    margin: int = _EVALUATION_MARGIN,
) -> Pixels:
    """Resize `box` to uint8 [*size, 3]; the filter may reach beyond it into `visible`.

    Both boxes are of the upright image; `visible` has whole numbers.
    """
    box, visible = _as_stored(box, image), _as_stored(visible, image)
    turned = orientation(image)
    height, width = size[::-1] if turned in (5, 6, 7, 8) else size
    fit = min(box.height / height, box.width / width) / margin
    shrink = next((factor for factor in (8, 4, 2) if factor <= fit), 1)
    is_jpeg = image.format in ("JPEG", "MPO")
    shrink = shrink if is_jpeg else 1
    # The scale is 1 / shrink exactly, though the last pixel may reach over the edge.
    stored = math.ceil(image.width / shrink), math.ceil(image.height / shrink)
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
    file = getattr(image, "fp", None)
    if is_jpeg and image.mode in ("RGB", "L") and isinstance(file, io.BytesIO):
        whole = jpeg.decode(file.getvalue(), stored[1], stored[0])
        if whole is not None and whole.shape[1::-1] == stored:
            part = whole[top:bottom, left:right]
            pixels = jpeg.resize(part, inner, (height, width), interpolation)
            if turned in UPRIGHT:
                return np.array(Image.fromarray(pixels).transpose(UPRIGHT[turned]))
            return pixels
    if shrink > 1:
        image.draft(None, (image.width // shrink, image.height // shrink))
    if (left, top, right, bottom) != (0, 0, *image.size):
        image = image.crop((left, top, right, bottom))
    image = to_rgb(image).resize((width, height), _FILTERS[interpolation], box=inner)
    if turned in UPRIGHT:
        image = image.transpose(UPRIGHT[turned])
    return np.array(image)
