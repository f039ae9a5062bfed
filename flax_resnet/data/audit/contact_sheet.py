"""Contact sheet: a picture with examples of every class."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageDraw

from flax_resnet.data.images import (
    ImageDecodeError,
    SplitRecords,
    draw_shortened,
    pluralize,
    resize_center_crop,
    write_picture,
)

_MARGIN = 4  # pixels around every example
_NAME_WIDTH = 160
_TEXT_SIZE = 15
_MOST_CLASSES = 200


def contact_sheet(
    records: SplitRecords,
    path: str | os.PathLike[str],
    *,
    per_class: int = 8,
    tile: int = 112,
) -> int:
    """Write a picture with a row for each class: its name, and examples from train.

    The examples are evenly spaced in the order of the files of the class. A grey cross replaces an
    image that cannot be decoded. The picture shows at most 200 classes.

    Args:
        records: The data set.
        path: Path of the picture; its extension determines the format, such as .png or .jpg.
        per_class: Largest number of examples of a class.
        tile: Height and width of an example, in pixels.

    Returns:
        Number of classes that the picture shows.

    Raises:
        UserError: The picture cannot be written.
    """
    classes = records.classes[:_MOST_CLASSES]
    pitch = tile + 2 * _MARGIN
    sheet = Image.new("RGB", (_NAME_WIDTH + per_class * pitch, len(classes) * pitch), "white")
    draw = ImageDraw.Draw(sheet)
    for label, name in enumerate(classes):
        own = np.flatnonzero(records.train.labels == label)
        top = label * pitch + _MARGIN
        number = pluralize(len(own), "image", "images")
        for line, text in enumerate((name, number)):
            corner = _MARGIN, top + line * (_TEXT_SIZE + 5)
            draw_shortened(draw, corner, text, _TEXT_SIZE, "black", _NAME_WIDTH - 2 * _MARGIN)
        chosen = own[np.linspace(0, len(own) - 1, min(per_class, len(own))).astype(int)]
        for column, index in enumerate(chosen):
            left = _NAME_WIDTH + column * pitch + _MARGIN
            sheet.paste(_example(records.train.paths[index], tile), (left, top))
    write_picture(sheet, path)
    return len(classes)


def _example(path: str, tile: int) -> Image.Image:
    try:
        return Image.fromarray(resize_center_crop(path, tile, tile))
    except ImageDecodeError:
        cross = Image.new("RGB", (tile, tile), "lightgrey")
        draw = ImageDraw.Draw(cross)
        draw.line((0, 0, tile, tile), fill="grey", width=3)
        draw.line((0, tile, tile, 0), fill="grey", width=3)
        return cross
