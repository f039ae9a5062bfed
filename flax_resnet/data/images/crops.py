"""Boxes of random crops (Szegedy et al. 2015), as pure functions of uniform random numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

UNIFORMS_PER_CROP = 22
"""Random numbers for one crop: two for the position and two for each of torchvision's ten tries."""


class Box(NamedTuple):
    """A rectangle inside an image, in pixels."""

    top: float
    left: float
    height: float
    width: float


def crop_box(
    height: int,
    width: int,
    crop_uniforms: npt.ArrayLike,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Choose a random crop as Szegedy et al. 2015 do ("Going deeper with convolutions").

    The area is uniform in ``scale``, the aspect ratio is log-uniform in ``ratio``, and the position
    is uniform. The first try whose box fits into the image is taken. If no try fits, the box is
    the largest centered one whose aspect ratio is within ``ratio``. torchvision does the same.

    Args:
        height, width: Size of the image in pixels.
        crop_uniforms: Random numbers in [0, 1), float ``[k]``, k even and at least 4: top and left,
            then area and aspect ratio of each try. ``UNIFORMS_PER_CROP`` of them give torchvision's
            ten tries.
        scale: Smallest and largest fraction of the image's area.
        ratio: Smallest and largest width / height.

    Raises:
        ValueError: The shape or the range of ``crop_uniforms`` is wrong.
    """
    return box_of(height, width, checked_uniforms(crop_uniforms), scale, ratio)


def box_of(
    height: int,
    width: int,
    crop_uniforms: list[float],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Choose a box like ``crop_box``, from numbers that ``checked_uniforms`` has returned."""
    vertical, horizontal = crop_uniforms[:2]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for at in range(2, len(crop_uniforms), 2):  # usually the first try fits
        area = height * width * (scale[0] + crop_uniforms[at] * (scale[1] - scale[0]))
        aspect = math.exp(low + crop_uniforms[at + 1] * (high - low))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(vertical * (height - box_height + 1))
            left = int(horizontal * (width - box_width + 1))
            return Box(top, left, box_height, box_width)
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def checked_uniforms(crop_uniforms: npt.ArrayLike) -> list[float]:
    """Return the random numbers of one crop as a list.

    Raises:
        ValueError: They have a shape or a range that ``crop_box`` does not take.
    """
    array = np.asarray(crop_uniforms, np.float64)
    if array.ndim != 1 or len(array) < 4 or len(array) % 2:
        raise ValueError(
            f"crop_uniforms has shape {list(array.shape)}: give an even number of at least 4"
        )
    values: list[float] = array.tolist()  # plain Python is faster than NumPy for so few numbers
    # The sum detects a NaN, which min and max may pass over.
    if not (min(values) >= 0 and max(values) < 1 and sum(values) >= 0):
        raise ValueError("crop_uniforms must be at least 0 and less than 1")
    return values
