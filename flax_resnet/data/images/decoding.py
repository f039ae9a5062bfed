"""Image files opened and checked with Pillow: which formats, which limits, which complaints."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from flax_resnet.errors import UserError

Content = bytes | str | os.PathLike[str]
"""The bytes of an image file, or its path."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000

# What undoes each EXIF orientation but 1, the upright one.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(UserError):
    """A file that is no image we can decode.

    Attributes:
        name: the file's path, or a description where there were only bytes.
        reason: what is wrong with it, as the end of a sentence that begins with the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}; replace the file or remove it")
        self.name = name
        self.reason = reason


@contextmanager
def opened(content: Content, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image, not yet decoded.

    Raises:
        BadImage: not an image, one with more pixels than `max_pixels`, or anything that Pillow
            raises while the image is open.
    """
    name, data = named(content)
    with opened_bytes(name, data, max_pixels) as image:
        yield image


@contextmanager
def opened_bytes(name: str, data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image whose bytes have been read, as `opened`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(
                    name,
                    f"has {width}×{height} pixels, more than the {max_pixels:,} that are allowed",
                )
            yield image
    except BadImage:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, before ours is reached
        reason = f"has more pixels than the {max_pixels:,} that are allowed: make it smaller"
        raise BadImage(name, reason) from error
    except UnidentifiedImageError as error:
        raise BadImage(name, _what_else(data)) from error
    # Any: on damaged files Pillow also lets through what its parsers stumble over
    # (struct.error, KeyError, SyntaxError and more).
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(name, f"cannot be decoded ({detail})") from error


def named(content: Content) -> tuple[str, bytes]:
    """Return what to call an image, and its bytes.

    Raises:
        BadImage: it cannot be read.
    """
    if isinstance(content, bytes):
        return f"an image of {len(content)} bytes", content
    name = os.fspath(content)
    return name, read_bytes(name)


def read_bytes(path: str) -> bytes:
    """Return the file's content.

    Raises:
        BadImage: it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise BadImage(path, f"cannot be read ({error.strerror or error})") from error


def orientation(image: Image.Image) -> int:
    """Return how the stored image is turned, 1 to 8 as EXIF counts; 1 is upright."""
    if image.format == "TIFF":  # turned by Pillow already
        return 1
    try:
        stored = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data; the pixels may be whole
        return 1
    return stored if stored in UPRIGHT else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to mode RGB.

    Raises:
        ValueError: pixels of 32 bits, whose range nobody knows.
    """
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits: save it with 8 or 16")
    if image.mode == "P":
        # Straight to RGB, Pillow warns of a transparency that it then drops.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _what_else(data: bytes) -> str:
    if not data:
        return "is empty"
    if data.startswith(b"\xff\xd8\xff"):
        return "begins as a JPEG but its header is damaged or cut off"
    if data[4:8] == b"ftyp":
        return "is a HEIC, AVIF or video file, not JPEG, PNG, WebP, BMP, GIF or TIFF"
    # Stripped: a byte order mark, and a character cut in two at the end.
    text = data[:40].decode(errors="replace").lstrip("\ufeff").rstrip("\ufffd")
    if text and "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text):
        return f"is text and not an image: it begins with {' '.join(text.split())!r}"
    return "is not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or its header is damaged"
