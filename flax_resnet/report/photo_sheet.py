"""A picture of photos with a caption and a probability under each."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..data.images.decoding import MAX_PIXELS, BadImage, opened, to_rgb
from ..errors import UserError

MOST = 400  # photos on one sheet
_TILE, _GAP, _TEXT = 168, 12, 15
_CAPTION = 2 * _TEXT + 14
_PAPER, _INK, _FAINT, _EMPTY = "#ffffff", "#1c2430", "#6b7482", "#e6e9ee"
_GOOD, _UNSURE, _BAD = "#2f7d4f", "#c28a1b", "#b3362b"
_SURE = 0.7  # below, the bar is amber: look at it yourself


@dataclass(frozen=True)
class Captioned:
    """A photo and what is said of it.

    Attributes:
      path: the file.
      label: the first line below it.
      probability: of the label; None where there is none, as of a file that cannot be read.
      note: the second line, after the probability.
      wrong: True where the label is known not to be the photo's.
    """

    path: str
    label: str
    probability: float | None = None
    note: str = ""
    wrong: bool = False


def photo_sheet(photos: Sequence[Captioned], path: str | os.PathLike[str]) -> int:
    """Write a contact sheet; returns how many photos are on it, at most ``MOST``.

    Each photo is shown whole, with its label, its probability in figures and as a bar.

    Args:
      path: the picture's; its ending decides the format.

    Raises:
      UserError: nothing to show, or the picture cannot be written.
    """
    shown = photos[:MOST]
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
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(target)
    # ValueError: an ending that stands for no format, or one that cannot hold the picture.
    except (OSError, ValueError) as error:
        raise UserError(
            f"{target} cannot be written ({error}): name another place, ending in .png."
        ) from error
    return len(shown)


def _draw(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, photo: Captioned, left: int, top: int
) -> None:
    sheet.paste(_tile(photo.path), (left, top))
    font, small = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT - 3)
    below = top + _TILE + 4
    if photo.probability is not None:
        color = _BAD if photo.wrong else _GOOD if photo.probability >= _SURE else _UNSURE
        draw.rectangle((left, below, left + _TILE - 1, below + 3), fill=_EMPTY)
        filled = round((_TILE - 1) * photo.probability)
        draw.rectangle((left, below, left + filled, below + 3), fill=color)
    percent = "" if photo.probability is None else f"{photo.probability:.1%}"
    room = _TILE - draw.textlength(percent, font) - 6
    draw.text((left, below + 7), _fitting(draw, font, photo.label, room), _INK, font)
    draw.text((left + _TILE, below + 7), percent, _INK, font, anchor="ra")
    draw.text((left, below + 9 + _TEXT), _fitting(draw, small, photo.note, _TILE), _FAINT, small)


def _tile(path: str) -> Image.Image:
    """The whole photo within a square; a cross where it cannot be read."""
    tile = Image.new("RGB", (_TILE, _TILE), _EMPTY)
    try:
        with opened(path, MAX_PIXELS) as image:
            image.draft("RGB", (_TILE, _TILE))
            upright = to_rgb(ImageOps.exif_transpose(image))
            photo = ImageOps.contain(upright, (_TILE, _TILE), Image.Resampling.BICUBIC)
        tile.paste(photo, ((_TILE - photo.width) // 2, (_TILE - photo.height) // 2))
    except BadImage:
        draw = ImageDraw.Draw(tile)
        for ends in ((56, 56, 112, 112), (56, 112, 112, 56)):
            draw.line(ends, fill="#aab2bd", width=4)
    return tile


def _fitting(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    text: str,
    room: float,
) -> str:
    """The text, shortened to ``room`` pixels."""
    text = " ".join(text.split())
    shown = text
    while shown and draw.textlength(shown, font) > room:
        shown = f"{shown.removesuffix('…')[:-1]}…"
    return shown
