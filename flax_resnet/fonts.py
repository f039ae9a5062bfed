"""Fonts that have the letters of names, for pictures."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from .file_names import escape

if TYPE_CHECKING:
    from PIL import ImageFont


def pillow_font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's font, or where it lacks letters of a text the font that has most of them."""
    from PIL import ImageFont

    if text.isascii() or _letters(text) <= _pillow_letters():
        return ImageFont.load_default(size)
    return ImageFont.truetype(_best_font(_letters(text)), size)


def matplotlib_families(texts: Iterable[str]) -> list[str]:
    """Return the names of font families, of which the first that has a letter draws it."""
    from matplotlib import font_manager

    families = ["DejaVu Sans"]
    for file in {_best_font(_letters(text)) for text in texts if not text.isascii()}:
        font_manager.fontManager.addfont(file)
        families.append(font_manager.FontProperties(fname=file).get_name())
    return list(dict.fromkeys(families))


def missing_letters_note(texts: Iterable[str]) -> str:
    """Return a sentence about texts whose letters no installed font has, "" if there are none."""
    lacking = [text for text in dict.fromkeys(texts) if _missing(text)]
    if not lacking:
        return ""
    letters = sorted(set().union(*map(_missing, lacking)))
    names = "a name has" if len(lacking) == 1 else f"{len(lacking)} names have"
    return (
        f"{names} letters that no installed font has ({''.join(letters[:8])}), drawn as boxes: "
        "install a font such as Noto Sans of their script."
    )


def _missing(text: str) -> frozenset[str]:
    letters = frozenset() if text.isascii() else _letters(text)
    if letters <= _pillow_letters():
        return frozenset()
    return letters - _font_letters(_best_font(letters))


def _letters(text: str) -> frozenset[str]:
    """Return the characters of a text that are visible; a lone surrogate is drawn escaped."""
    hidden = ("Cc", "Cf", "Zs", "Zl", "Zp")
    return frozenset(
        character
        for character in escape(text)
        if unicodedata.category(character) not in hidden
        and not 0xFE00 <= ord(character) <= 0xFE0F  # variation selectors
    )


@cache
def _best_font(letters: frozenset[str]) -> str:
    """Return the file of the font that has most of some letters."""
    return max(_font_files(), key=lambda file: len(letters & _font_letters(file)))


@cache
def _font_files() -> tuple[str, ...]:
    """Return the files of Matplotlib's own font and of all installed ones, the plain ones first."""
    from matplotlib import font_manager, get_data_path

    own = os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    styled = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "mono", "serif")
    installed = sorted(
        font_manager.findSystemFonts(),
        key=lambda file: (sum(style in os.path.basename(file).lower() for style in styled), file),
    )
    return own, *installed


@cache
def _font_letters(file: str) -> frozenset[str]:
    try:
        with open(file, "rb") as content:
            return _charmap(content.read())
    except (OSError, RuntimeError):  # RuntimeError: FreeType cannot read it
        return frozenset()


@cache
def _pillow_letters() -> frozenset[str]:
    from PIL import ImageFont

    font = ImageFont.load_default(10)
    return _charmap(font.font_bytes) if isinstance(font, ImageFont.FreeTypeFont) else frozenset()


def _charmap(content: bytes) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    font = FT2Font(io.BytesIO(content))
    flags: Any = font.face_flags
    if not getattr(flags, "value", flags) & 1:  # not scalable: pictures, as of some emoji
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))
