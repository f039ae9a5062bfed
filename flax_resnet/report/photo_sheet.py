"""Contact sheet: one image that shows many photos, with a caption and a probability under each."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from ..data.images import (
    MAX_PIXELS,
    ImageDecodeError,
    draw_shortened,
    open_image,
    to_rgb,
    write_picture,
)
from ..errors import UserError
from ..fonts import pillow_font

MAX_PHOTOS = 400  # on one sheet
_TILE, _GAP, _TEXT = 168, 12, 15
_CAPTION = 2 * _TEXT + 14
_PAPER, _INK, _FAINT, _EMPTY = "#ffffff", "#1c2430", "#6b7482", "#e6e9ee"
_GOOD, _UNSURE, _BAD = "#2f7d4f", "#c28a1b", "#b3362b"
_CONFIDENT = 0.7  # below this probability the bar is amber


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo and its caption.

    Attributes:
        path: the file.
        label: first line of the caption.
        probability: probability of the label; None if there is none, as for a damaged file.
        note: second line of the caption.
        wrong: whether the label is known to be wrong.
    """

    path: str
    label: str
    probability: float | None = None
    note: str = ""
    wrong: bool = False


def write_photo_sheet(photos: Sequence[CaptionedPhoto], path: str | os.PathLike[str]) -> int:
    """Write a contact sheet of the first ``MAX_PHOTOS`` photos.

    Each photo is shown whole, with its label, its probability as a number and as a bar.

    Args:
        photos: the photos, at least one.
        path: the file; its suffix determines the format.

    Returns:
        The number of photos on the sheet.

    Raises:
        UserError: there are no photos, or the file cannot be written.
    """
    shown = photos[:MAX_PHOTOS]
    if not shown:
        raise UserError("There are no photos to put on a contact sheet.")
    columns = min(len(shown), max(4, round(math.sqrt(len(shown) * 1.4))))
    rows = math.ceil(len(shown) / columns)
    width, height = _TILE + _GAP, _TILE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, photo in enumerate(shown):
        row, column = divmod(number, columns)
        _draw(sheet, draw, photo, _GAP + column * width, _GAP + row * height)
    write_picture(sheet, path)
    return len(shown)


def _draw(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, photo: CaptionedPhoto, left: int, top: int
) -> None:
    sheet.paste(_tile(photo.path), (left, top))
    bar_top = top + _TILE + 4
    if photo.probability is not None:
        color = _BAD if photo.wrong else _GOOD if photo.probability >= _CONFIDENT else _UNSURE
        draw.rectangle((left, bar_top, left + _TILE - 1, bar_top + 3), fill=_EMPTY)
        filled = round((_TILE - 1) * photo.probability)
        draw.rectangle((left, bar_top, left + filled, bar_top + 3), fill=color)
    percent = "" if photo.probability is None else f"{photo.probability:.1%}"
    font = pillow_font(percent, _TEXT)
    draw.text((left + _TILE, bar_top + 7), percent, _INK, font, anchor="ra")
    label_width = _TILE - draw.textlength(percent, font) - 6
    for text, size, color, top, width in (
        (photo.label, _TEXT, _INK, bar_top + 7, label_width),
        (photo.note, _TEXT - 3, _FAINT, bar_top + 9 + _TEXT, _TILE),
    ):
        draw_shortened(draw, (left, top), text, size, color, width)


def _tile(path: str) -> Image.Image:
    """The whole photo in a square, or a cross if it cannot be read."""
    tile = Image.new("RGB", (_TILE, _TILE), _EMPTY)
    try:
        with open_image(path, MAX_PIXELS) as image:
            image.draft("RGB", (_TILE, _TILE))
            upright = to_rgb(ImageOps.exif_transpose(image))
            photo = ImageOps.contain(upright, (_TILE, _TILE), Image.Resampling.BICUBIC)
        tile.paste(photo, ((_TILE - photo.width) // 2, (_TILE - photo.height) // 2))
    except ImageDecodeError:
        draw = ImageDraw.Draw(tile)
        for ends in ((56, 56, 112, 112), (56, 112, 112, 56)):
            draw.line(ends, fill="#aab2bd", width=4)
    return tile
