"""Image files opened and checked with Pillow: accepted formats, size limits, error messages."""

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

# The transposition that turns an image of each EXIF orientation upright; 1 is upright.
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
    """Error: a file cannot be decoded as an image.

    Attributes:
        name: Path of the file, or a description if only its bytes are known.
        reason: What is wrong with it, as the end of a sentence that begins with the name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}; replace the file or remove it")
        self.name = name
        self.reason = reason


@contextmanager
def opened(content: Content, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image without decoding it.

    Raises:
        BadImage: It is not an image or has more pixels than ``max_pixels``, or Pillow raises any
            error while the image is open.
    """
    name, data = named(content)
    with opened_bytes(name, data, max_pixels) as image:
        yield image


@contextmanager
def opened_bytes(name: str, data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image like ``opened``, from bytes that have been read."""
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
        raise BadImage(name, _describe_other_file(data)) from error
    # Any exception: on damaged files Pillow also raises what its parsers run into
    # (struct.error, KeyError, SyntaxError and more).
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(name, f"cannot be decoded ({detail})") from error


def named(content: Content) -> tuple[str, bytes]:
    """Return the name of an image for messages, and its bytes.

    Raises:
        BadImage: The file cannot be read.
    """
    if isinstance(content, bytes):
        return f"an image of {len(content)} bytes", content
    name = os.fspath(content)
    return name, read_bytes(name)


def read_bytes(path: str) -> bytes:
    """Return the content of a file.

    Raises:
        BadImage: The file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise BadImage(path, f"cannot be read ({error.strerror or error})") from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a stored image, 1 to 8; 1 is upright."""
    if image.format == "TIFF":  # Pillow has already turned it
        return 1
    try:
        stored = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the EXIF data are damaged; the pixels may be intact
        return 1
    return stored if stored in UPRIGHT else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to mode RGB.

    Raises:
        ValueError: The pixels have 32 bits, so that their range is not known.
    """
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits: save it with 8 or 16")
    if image.mode == "P":
        # In a direct conversion to RGB, Pillow warns of a transparency that it drops.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _describe_other_file(data: bytes) -> str:
    """Return the reason why these bytes are no image, as specific as their beginning allows."""
    if not data:
        return "is empty"
    if data.startswith(b"\xff\xd8\xff"):
        return "begins as a JPEG but its header is damaged or cut off"
    if data[4:8] == b"ftyp":
        return "is a HEIC, AVIF or video file, not JPEG, PNG, WebP, BMP, GIF or TIFF"
    # Strip a byte order mark, and a character that the cut has broken.
    text = data[:40].decode(errors="replace").lstrip("\ufeff").rstrip("\ufffd")
    if text and "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text):
        return f"is text and not an image: it begins with {' '.join(text.split())!r}"
    return "is not a JPEG, PNG, WebP, BMP, GIF or TIFF image, or its header is damaged"
