"""The quick way through a JPEG file: decoded by libjpeg-turbo, resized by fast_image_resize.

Pillow does the same with the same libraries' older or plainer relatives: the decoded pixels are
equal, resized ones at most a level apart, more slowly (`benchmarks/data.py`). Both libraries
let go of the interpreter's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from cykooz_resizer import (  # type: ignore[import-untyped]
    CropBox,
    FilterType,
    ImageData,
    PixelType,
    ResizeAlg,
    ResizeOptions,
    Resizer,
)

Pixels = npt.NDArray[np.uint8]

# Catmull and Rom's cubic is the one that Pillow and torchvision call bicubic.
_FILTERS = {
    "bilinear": ResizeAlg.convolution(FilterType.bilinear),
    "bicubic": ResizeAlg.convolution(FilterType.catmull_rom),
}
_WHOLE = {name: ResizeOptions(method, use_alpha=False) for name, method in _FILTERS.items()}
_own = threading.local()  # a Resizer keeps buffers, and serves one thread

# Markers of a JPEG, by ITU-T T.81, table B.1.
_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1 = 0xE1  # of EXIF and XMP
_SCAN = 0xDA
_END = b"\xff\xd9"


def decode(
    content: bytes, size: tuple[int, int], shrink: int = 1, *, rows: int = 0, quick: bool = False
) -> Pixels | None:
    """Decode a JPEG to uint8 [H, W, 3] at 1/1, 1/2, 1/4 or 1/8 of its size, rounded up.

    Args:
        size: its (height, width), as its header says.
        rows: how many of the result's are wanted; where that spares work, there are no others. 0
            wants all.
        quick: by the quicker, less exact inverse cosine transform, which is TensorFlow's default
            too; on average a level away.

    Returns:
        Pixels that the thread's next call overwrites. None where anything about the file is
        unusual: Pillow then has the last word.
    """
    height, width = size
    lower = _of_fewer_rows(content, height, rows * shrink) if rows else None
    if lower is not None:
        content, height = lower
    height, width = -(-height // shrink), -(-width // shrink)
    if len(getattr(_own, "pixels", ())) < height * width * 3:
        _own.pixels = bytearray(height * width * 3)
    try:
        pixels = simplejpeg.decode_jpeg(
            content,
            "RGB",
            fastdct=quick,
            min_height=height,
            min_width=width,
            buffer=_own.pixels,
            # What is left below the last row is a recoverable error.
            strict=lower is None,
        )
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG in colour or grey without EXIF or XMP, which may turn it;
    None of any other file."""
    frame = _frame(content, (_SCAN, _APP1))
    if frame is None or content[frame + 1] > _PROGRESSIVE or content[frame + 9] not in (1, 3):
        return None
    height, width = (int.from_bytes(content[frame + at : frame + at + 2]) for at in (5, 7))
    return (height, width) if height and width and content[frame + 4] == 8 else None


def _of_fewer_rows(content: bytes, height: int, rows: int) -> tuple[bytes, int] | None:
    """Return a JPEG whose header speaks of about so many rows only, and how many these are.

    A decoder ends after them. They are whole blocks, and one row more than asked for, with which
    colours are smoothed. None where they are not fewer, and for files that are not sequential
    (baseline) or that do not end as they should: those cut off are to be found out.
    """
    frame = _frame(content, (_SCAN,))
    if frame is None or content[frame + 1] != _BASELINE or not content.endswith(_END):
        return None
    # Of each channel its name, how often it is sampled across and down (4 bits each), its table.
    channels = content[frame + 10 : frame + 10 + 3 * content[frame + 9]]
    block = 8 * max([both & 15 for both in channels[1::3]], default=0)
    fewer = (rows // block + 1) * block if block else height
    if fewer >= height:
        return None
    rest = memoryview(content)[frame + 7 :]  # copied once only
    return b"".join((content[: frame + 5], fewer.to_bytes(2), rest)), fewer


def _frame(content: bytes, end: Collection[int]) -> int | None:
    """Return where the frame's marker is, unless one of ``end`` comes before it.

    After the marker (2 bytes) and a length (2) come bits (1), height (2), width (2) and the number
    of channels (1).
    """
    place = 2
    while place < len(content) - 10 and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in _FRAMES:
            return place
        if marker in end:
            return None
        place += 2 + (content[place + 2] << 8 | content[place + 3])
    return None


def resize(
    pixels: Pixels,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Pixels:
    """Resize a part of uint8 [H, W, 3] to [*size, 3], antialiased, as Pillow's `resize` does.

    Args:
        box: left, top, right and bottom of the part; the filter may reach beyond it.
        size: (height, width).
    """
    if not hasattr(_own, "resizer"):
        _own.resizer = Resizer()
    left, top, right, bottom = box
    if box == (0, 0, pixels.shape[1], pixels.shape[0]):
        options = _WHOLE[interpolation]
    else:
        part = CropBox(left, top, right - left, bottom - top)
        options = ResizeOptions(_FILTERS[interpolation], crop_box=part, use_alpha=False)
    source = ImageData(pixels.shape[1], pixels.shape[0], PixelType.U8x3, pixels.tobytes())
    if getattr(_own, "size", None) != size:
        _own.size, _own.target = size, ImageData(size[1], size[0], PixelType.U8x3)
    _own.resizer.resize(source, _own.target, options)
    return np.frombuffer(_own.target.get_buffer(), np.uint8).reshape(*size, 3)
