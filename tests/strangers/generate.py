"""Names and image files as strangers have them, drawn by a seed; imports nothing of ours.

``Generator(seed)`` draws names of many kinds (``NAMES``) and writes files of many kinds
(``FILES``), and counts in ``met`` how many of each it made. What a file gives is known when it is
written: a picture of one colour, or nothing that can be read.
"""

import os
import random
import struct
import sys
import unicodedata
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NAME_BYTES = 255  # the longest name of the usual file systems

_SCRIPTS = (
    *("猫と犬", "кошка", "γάτα", "قطة", "חתול", "แมว", "고양이", "बिल्ली"),
    *("\U0001f408\u200d\u2b1b", "\u00e9", "e\u0301", "\u1e9e\u00df"),
)


def _any_unicode(rng):
    """Characters of all planes, of those that a name can have: no slash, NUL or surrogate."""
    found = []
    while len(found) < rng.randint(1, 12):
        character = chr(rng.randrange(1, sys.maxunicode + 1))
        if character != "/" and unicodedata.category(character) not in ("Cs", "Cn"):
            found.append(character)
    return "".join(found)


def _not_utf8(rng):
    return os.fsdecode(
        bytes(rng.choice((0xE9, 0xFF, 0x80, 0xC3, 0x61)) for _ in range(4)) + b"\xe9"
    )


# The kind of a name -> names of the kind, or a function of a ``random.Random`` that draws one.
NAMES = {
    "plain": lambda rng: f"img_{rng.randrange(10**4):04}",
    "number": lambda rng: f"{rng.randrange(200):0{rng.randint(1, 4)}}",
    "script": _SCRIPTS,
    "any Unicode": _any_unicode,
    "not UTF-8": _not_utf8,
    "brackets": ("a [v2]", "[!x]", "{a,b}", "(1)", "[red]b", "[new] cats", "[link=x]"),
    "pattern": ("a*", "what?", "**", "[a-z]*"),
    "separators": ("a,b", "a;b", 'say "a"', "it's", "a|b", "a\\b", "%20"),
    "spaces": (" a", "a  b", "a\nb", "a\tb", "a\r", "\u00a0", "\u2028"),
    "control": ("a\x1b[31m", "\x01", "a\x7f", "\u202ea", "\ufeffa"),
    "dash": ("-a", "--help", "-"),
    "home": ("~", "~a", "$HOME"),
    "dots": ("a.", "a..b", "a.jpg", "a.png.csv"),
    "reserved": ("CON", "nul", "aux"),
    "long": tuple(character * NAME_BYTES for character in "x\u00e9\u82b1"),
}


@dataclass(frozen=True)
class File:
    """A file that was written.

    Attributes:
        path: Its path, with surrogate escapes where its name is not UTF-8.
        kind: One of ``FILES``.
        readable: Whether it holds a picture that can be decoded.
        color: The red, green and blue of the whole picture, up to the losses of its format.
    """

    path: str
    kind: str
    readable: bool
    color: tuple[int, int, int]


def _picture(rng, color):
    return Image.new("RGB", (rng.randint(8, 40), rng.randint(8, 40)), color)


def _saved(form, mode="RGB", **options):
    def write(path, rng, color):
        _picture(rng, color).convert(mode).save(path, form, **options)

    return write


def _turned(path, rng, color):
    exif = Image.Exif()
    exif[0x0112] = rng.randint(2, 8)
    _picture(rng, color).save(path, "JPEG", exif=exif)


def _link(path, rng, color):
    target = os.path.join(os.path.dirname(path), f".target{rng.randrange(10**9)}")
    _picture(rng, color).save(target, "PNG")
    os.symlink(os.path.basename(target), path)


def _holding(content):
    def write(path, rng, color):
        Path(path).write_bytes(content)

    return write


def _cut(path, rng, color):
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    os.truncate(path, rng.randint(1, os.path.getsize(path) * 3 // 4))


def _bomb(path, rng, color):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0))
    Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))


# The kind of a file -> its extension, whether it is readable, and ``write(path, rng, color)``.
FILES = {
    "JPEG": (".jpg", True, _saved("JPEG", quality=95)),
    "JPEG, capitals": (".JPG", True, _saved("JPEG", quality=95)),
    "JPEG as .jpeg": (".jpeg", True, _saved("JPEG", quality=95, progressive=True)),
    "JPEG as .jfif": (".jfif", True, _saved("JPEG", quality=95)),
    "JPEG, turned": (".jpg", True, _turned),
    "JPEG, CMYK": (".jpg", True, _saved("JPEG", "CMYK", quality=95)),
    "PNG": (".png", True, _saved("PNG")),
    "PNG, RGBA": (".png", True, _saved("PNG", "RGBA")),
    "PNG as .jpg": (".jpg", True, _saved("PNG")),
    "WebP": (".webp", True, _saved("WEBP", lossless=True)),
    "BMP": (".bmp", True, _saved("BMP")),
    "GIF": (".gif", True, _saved("GIF", "P")),
    "TIFF": (".tif", True, _saved("TIFF")),
    "link": (".png", True, _link),
    "empty": (".jpg", False, _holding(b"")),
    "text": (".jpg", False, _holding(b"<!DOCTYPE html><html>not found</html>")),
    "random bytes": (".png", False, _holding(bytes(range(256)) * 4)),
    "cut off": (".jpg", False, _cut),
    "too many pixels": (".png", False, _bomb),
    "dangling link": (".jpg", False, lambda path, rng, color: os.symlink("no such file", path)),
    "link to itself": (".jpg", False, lambda path, rng, color: os.symlink(path, path)),
    "pipe": (".jpg", False, lambda path, rng, color: os.mkfifo(path)),
    "folder": (".jpg", False, lambda path, rng, color: os.mkdir(path)),
    # Reading it fails with EIO, and so for root too.
    "I/O error": (".jpg", False, lambda path, rng, color: os.symlink("/proc/self/mem", path)),
}


class Generator:
    """Draws names and writes files.

    Attributes:
        rng: The source of all random choices.
        met: Number of names and files of each kind, ``("name", kind)`` and ``("file", kind)``.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.met: Counter[tuple[str, str]] = Counter()
        self._number = 0

    def name(self, extension: str = "", *, kind: str | None = None) -> str:
        """Draw a name that no earlier call returned, at most ``NAME_BYTES`` long."""
        # Half of the names are ordinary, as in real folders.
        usual = self.rng.random() < 0.5
        kind = kind or ("plain" if usual else self.rng.choice(list(NAMES)))
        self.met["name", kind] += 1
        self._number += 1
        end = os.fsencode(f"_{self._number}{extension}")
        names = NAMES[kind]
        drawn = self.rng.choice(names) if isinstance(names, tuple) else names(self.rng)
        stem = os.fsencode(drawn)[: NAME_BYTES - len(end)]
        if kind in ("script", "any Unicode", "long"):
            stem = stem.decode(errors="ignore").encode()  # without a character that was cut
        return os.fsdecode((b"_" if stem.startswith(b".") else b"") + stem + end)

    def file(self, folder: str | os.PathLike[str], *, kind: str | None = None) -> File:
        """Write a file of a drawn name into ``folder``, which exists."""
        usual = self.rng.random() < 0.7
        kind = kind or ("PNG" if usual else self.rng.choice(list(FILES)))
        extension, readable, write = FILES[kind]
        self.met["file", kind] += 1
        color = tuple(self.rng.randrange(256) for _ in range(3))
        path = os.path.join(os.fspath(folder), self.name(extension))
        write(path, self.rng, color)
        return File(path, kind, readable, color)

    def summary(self) -> str:
        """Return the number of names, files and whatever else was counted, a line each."""
        return "\n".join(f"{what}: {kind}: {n:,}" for (what, kind), n in sorted(self.met.items()))
