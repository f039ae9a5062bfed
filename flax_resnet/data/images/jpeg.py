"""The fast path for JPEG files: libjpeg-turbo decodes and fast_image_resize resizes.

Pillow gives the same decoded pixels, and resized ones that differ by at most two levels, rarely by
more than one (where a cubic overshoots, by three or so), but is slower (``benchmarks/data.py``). It
resizes where fast_image_resize has no build, and enlarges with a cubic. Both libraries release the
interpreter lock.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

try:
    import cykooz_resizer as fast  # type: ignore[import-untyped]
except ImportError:  # it has no build for Linux on ARM
    fast = None

Pixels = npt.NDArray[np.uint8]

_PILLOWS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
if fast:
    # Pillow and torchvision call the Catmull-Rom cubic "bicubic".
    _FILTERS = {
        "bilinear": fast.ResizeAlg.convolution(fast.FilterType.bilinear),
        "bicubic": fast.ResizeAlg.convolution(fast.FilterType.catmull_rom),
    }
    _WHOLE_IMAGE = {
        name: fast.ResizeOptions(method, use_alpha=False) for name, method in _FILTERS.items()
    }
# Each thread has its own buffers and its own Resizer, which two threads must not share.
_thread = threading.local()

# Markers of a JPEG, by ITU-T T.81, table B.1.
_BASELINE, _PROGRESSIVE = 0xC0, 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1 = 0xE1  # holds EXIF and XMP
_SCAN = 0xDA
_END = b"\xff\xd9"


def decode(
    content: bytes, size: tuple[int, int], shrink: int = 1, *, rows: int = 0, quick: bool = False
) -> Pixels | None:
    """Decode a JPEG to uint8 ``[H, W, 3]`` at 1/1, 1/2, 1/4 or 1/8 of its size, rounded up.

    Args:
        content: The bytes of the file.
        size: ``(height, width)`` from its header.
        shrink: 1, 2, 4 or 8.
        rows: Number of rows of the result that are needed; the others are left out if that saves
            time. 0 keeps all rows.
        quick: Use the faster, less exact inverse cosine transform, which is also TensorFlow's
            default; on average it differs by one level.

    Returns:
        Pixels that the next call from the same thread overwrites, or None if anything about the
        file is unusual, so that Pillow must decide.
    """
    height, width = size
    lower = _with_fewer_rows(content, height, rows * shrink) if rows else None
    if lower is not None:
        content, height = lower
    height, width = -(-height // shrink), -(-width // shrink)
    if len(getattr(_thread, "pixels", ())) < height * width * 3:
        _thread.pixels = bytearray(height * width * 3)
    try:
        pixels = simplejpeg.decode_jpeg(
            content,
            "RGB",
            fastdct=quick,
            min_height=height,
            min_width=width,
            buffer=_thread.pixels,
            # The data that remain below the last row are a recoverable error.
            strict=lower is None,
        )
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Return ``(height, width)`` of a colour or grey JPEG without EXIF or XMP data, which may turn
    it; return None for any other file."""
    frame = _frame(content, (_SCAN, _APP1))
    if frame is None or content[frame + 1] > _PROGRESSIVE or content[frame + 9] not in (1, 3):
        return None
    height, width = (int.from_bytes(content[frame + at : frame + at + 2]) for at in (5, 7))
    return (height, width) if height and width and content[frame + 4] == 8 else None


def _with_fewer_rows(content: bytes, height: int, rows: int) -> tuple[bytes, int] | None:
    """Return the JPEG with a header that gives about ``rows`` rows, and the number of them.

    A decoder stops after these rows. They are whole blocks and at least one row more than
    ``rows``, which the smoothing of colours needs. The result is None if they are not fewer than
    all rows, if the file is not sequential (baseline), or if it has no end marker, so that a
    truncated file is detected.
    """
    frame = _frame(content, (_SCAN,))
    if frame is None or content[frame + 1] != _BASELINE or not content.endswith(_END):
        return None
    # Each channel has an identifier, its sampling factors across and down (4 bits each), a table.
    channels = content[frame + 10 : frame + 10 + 3 * content[frame + 9]]
    block = 8 * max([both & 15 for both in channels[1::3]], default=0)
    fewer = (rows // block + 1) * block if block else height
    if fewer >= height:
        return None
    rest = memoryview(content)[frame + 7 :]  # copied once only
    return b"".join((content[: frame + 5], fewer.to_bytes(2), rest)), fewer


def _frame(content: bytes, end: Collection[int]) -> int | None:
    """Return the offset of the frame header, or None if a marker of ``end`` comes before it.

    After the marker (2 bytes) and a length (2) come bits (1), height (2), width (2) and the number
    of channels (1).
    """
    offset = 2
    while offset < len(content) - 10 and content[offset] == 0xFF:
        marker = content[offset + 1]
        if marker in _FRAMES:
            return offset
        if marker in end:
            return None
        offset += 2 + (content[offset + 2] << 8 | content[offset + 3])
    return None


def resize(
    pixels: Pixels,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Pixels:
    """Resize a box of uint8 ``[H, W, 3]`` to ``[*size, 3]``, antialiased, as Pillow does.

    Args:
        pixels: The image.
        box: Left, top, right and bottom; the filter may read beyond the box.
        size: ``(height, width)`` of the result.
        interpolation: Filter of the resizing.
    """
    left, top, right, bottom = box
    # Where the first pixel of an enlarged row lies exactly on one of the image, other than its
    # first, fast_image_resize 6.1 reads its cubic from outside its memory, which ends the process.
    enlarges = right - left < size[1] or bottom - top < size[0]
    if fast is None or (interpolation == "bicubic" and enlarges):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(image.resize(size[::-1], _PILLOWS[interpolation], box))
    if not hasattr(_thread, "resizer"):
        _thread.resizer = fast.Resizer()
    if box == (0, 0, pixels.shape[1], pixels.shape[0]):
        options = _WHOLE_IMAGE[interpolation]
    else:
        crop = fast.CropBox(left, top, right - left, bottom - top)
        options = fast.ResizeOptions(_FILTERS[interpolation], crop_box=crop, use_alpha=False)
    kind = fast.PixelType.U8x3
    source = fast.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
    if getattr(_thread, "size", None) != size:
        _thread.size, _thread.target = size, fast.ImageData(size[1], size[0], kind)
    _thread.resizer.resize(source, _thread.target, options)
    return np.frombuffer(_thread.target.get_buffer(), np.uint8).reshape(*size, 3)
