"""Pictures: text in them, and their files."""

from __future__ import annotations

import os

from PIL import Image, ImageDraw

from flax_resnet.errors import UserError
from flax_resnet.file_names import escape
from flax_resnet.fonts import pillow_font
from flax_resnet.output_files import replacing


def write_picture(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an image to a file whose extension names the format; folders are made.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with replacing(path) as fresh:
            image.save(fresh)
    # Pillow raises ValueError for an unknown extension, or if the format cannot store the image.
    except ValueError as error:
        raise UserError(
            f"{path} cannot be written ({error}): name another path, ending in .png."
        ) from error


def draw_shortened(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    size: int,
    color: str,
    width: float,
) -> None:
    """Draw a text on one line, shortened to a width, in a font that has its letters.

    Args:
        draw: Where to draw.
        corner: Left and top, in pixels.
        text: The text; line breaks become spaces.
        size: Size of the font, in pixels.
        color: Colour of the text.
        width: Largest width, in pixels.
    """
    text = escape(" ".join(text.split()))
    font = pillow_font(text, size)
    shown = text
    while shown and draw.textlength(shown, font) > width:
        shown = f"{shown.removesuffix('…')[:-1]}…"
    draw.text(corner, shown, color, font)
