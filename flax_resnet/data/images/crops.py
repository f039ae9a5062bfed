"""Random crops as Szegedy et al. 2015 choose them, each a pure function of its draws."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DRAWS = 22
"""Draws for torchvision's ten tries: two for the place, two for each try."""


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: float
    left: float
    height: float
    width: float


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
    return box_of(height, width, checked_draws(draws), scale, ratio)


def box_of(
    height: int,
    width: int,
    draws: list[float],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Choose as `crop_box` does, by draws that have been checked."""
    down, across = draws[:2]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for at in range(2, len(draws), 2):  # the first try fits as a rule
        area = height * width * (scale[0] + draws[at] * (scale[1] - scale[0]))
        aspect = math.exp(low + draws[at + 1] * (high - low))
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


def checked_draws(draws: npt.ArrayLike) -> list[float]:
    """Return draws as `crop_box` takes them.

    Raises:
        ValueError: other draws.
    """
    array = np.asarray(draws, np.float64)
    if array.ndim != 1 or len(array) < 4 or len(array) % 2:
        raise ValueError(f"draws of shape {list(array.shape)}: an even number, at least 4")
    values: list[float] = array.tolist()  # of so few, Python is done before NumPy has begun
    # The sum tells of a NaN, which the least and the largest may pass over.
    if not (min(values) >= 0 and max(values) < 1 and sum(values) >= 0):
        raise ValueError("draws must be at least 0 and less than 1")
    return values
