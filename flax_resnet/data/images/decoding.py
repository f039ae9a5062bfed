"""Opening of image files with Pillow: accepted formats, size limits, error messages."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from flax_resnet.data.images.members import Member
from flax_resnet.errors import UserError
from flax_resnet.paths import expand_text

ImageSource = bytes | str | os.PathLike[str]
"""The bytes of an image file, or its path."""

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Pillow's name of each accepted format -> the extensions of its files. HEIF needs pillow-heif."""

EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)
MAX_PIXELS = 100_000_000
_NO_WAIT: int = getattr(os, "O_NONBLOCK", 0)  # Windows does not have it

_HEIF = "is a HEIC image, which needs pillow-heif (pip install pillow-heif), or is damaged"
# The first three letters of the brand in an ISO media file -> why it cannot be opened.
_ISO_MEDIA = {
    **dict.fromkeys((b"hei", b"hev", b"mif", b"msf"), _HEIF),
    b"avi": "is an AVIF image, which this Pillow was built without, or is damaged",
}

# Pillow's transposition for each EXIF orientation that is not upright (1 is upright).
EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageDecodeError(UserError):
    """Error: a file cannot be decoded as an image.

    Attributes:
        name: Path of the file, or a description if only its bytes are known.
        reason: Predicate of the error message, such as ``is empty``; its subject is ``name``.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}; replace the file or remove it")
        self.name = name
        self.reason = reason


@contextmanager
def open_image(content: ImageSource, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image without decoding it.

    Raises:
        ImageDecodeError: The file is not an image or has more pixels than ``max_pixels``, or any
            error is raised in the body of the ``with`` statement, where Pillow decodes the image.
    """
    name, data = name_and_bytes(content)
    with open_image_bytes(name, data, max_pixels) as image:
        yield image


@contextmanager
def open_image_bytes(name: str, data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image as ``open_image`` does, from the bytes of its file."""
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageDecodeError(
                    name,
                    f"has {width}×{height} pixels, more than the {max_pixels:,} that are allowed",
                )
            # Pillow scales the 16 bits of a PGM to 0..65535, and drops this with the format.
            yield _to_8_bits(image) if (image.format, image.mode) == ("PPM", "I") else image
    except ImageDecodeError:
        raise
    except Image.DecompressionBombError as error:
        # ``Image.open`` refuses more than twice MAX_IMAGE_PIXELS, before the check above.
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        reason = f"has more pixels than the {limit:,} that are allowed: make it smaller"
        raise ImageDecodeError(name, reason) from error
    except UnidentifiedImageError as error:
        raise ImageDecodeError(name, _unidentified_reason(data)) from error
    # Every exception is caught, because on damaged files Pillow also lets errors of its parsers
    # through (struct.error, KeyError, SyntaxError and more).
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageDecodeError(name, f"cannot be decoded ({detail})") from error


def name_and_bytes(content: ImageSource) -> tuple[str, bytes]:
    """Return the name of an image for messages, and its bytes.

    Raises:
        ImageDecodeError: The file cannot be read.
    """
    if isinstance(content, bytes):
        return f"an image of {len(content)} bytes", content
    name = os.fspath(content)
    return name, read_bytes(name)


def read_bytes(path: str) -> bytes:
    """Return the content of a file, or of an image in a shard.

    Raises:
        UserError: The shard has changed since it was indexed.
        ImageDecodeError: The file cannot be read, or is a pipe or a device, from which reading
            could wait forever.
    """
    try:
        if isinstance(path, Member):
            return path.read()
        with open(expand_text(path), "rb", buffering=0, opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) and not _is_substitution(path):
                raise ImageDecodeError(path, "is a pipe or another special file")
            return file.read()
    except OSError as error:
        raise ImageDecodeError(path, f"cannot be read ({error.strerror or error})") from error


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to is not waited for."""
    return os.open(path, flags | (0 if _is_substitution(path) else _NO_WAIT))


def _is_substitution(path: str) -> bool:
    """Return whether a path is that of an open pipe, which shells pass for ``<(command)``."""
    return path.startswith("/dev/fd/")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a stored image, 1 to 8; 1 is upright."""
    if image.format == "TIFF":  # Pillow has already made it upright
        return 1
    try:
        stored = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the EXIF data are damaged; the pixels may be intact
        return 1
    return stored if stored in EXIF_TRANSPOSE else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to mode RGB.

    Raises:
        ValueError: The pixels have 32 bits, so that their range is not known.
    """
    if image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits: save it with 8 or 16")
    if image.mode == "P":
        # In a direct conversion to RGB, Pillow warns of a transparency that it drops.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 bits with 8 bits."""
    pixels16 = np.asarray(image).astype(np.uint32)
    pixels = Image.fromarray(((pixels16 * 255 + 32767) // 65535).astype(np.uint8))
    pixels.format = image.format
    return pixels


def _formats(data: bytes) -> list[str]:
    """Return the formats that Pillow can decode here, and that these bytes may have."""
    has_heif = data[4:8] == b"ftyp" and _register_heif()
    return [name for name in FORMATS if name != "HEIF" or has_heif]


@cache
def _register_heif() -> bool:
    """Let Pillow open HEIC files; return whether pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _unidentified_reason(data: bytes) -> str:
    """Return why Pillow cannot identify these bytes as an image, judged by how they begin."""
    if not data:
        return "is empty"
    if data.startswith(b"\xff\xd8\xff"):
        return "begins as a JPEG but its header is damaged or cut off"
    if data[4:8] == b"ftyp":
        return _ISO_MEDIA.get(data[8:11], "is a video or another media file and not an image")
    # Strip a byte order mark, and a character that the cut has broken.
    text = data[:40].decode(errors="replace").lstrip("\ufeff").rstrip("\ufffd")
    if text and "\ufffd" not in text and all(c.isprintable() or c.isspace() for c in text):
        return f"is text and not an image: it begins with {' '.join(text.split())!r}"
    return "is not an image of a known format, or its header is damaged"
