"""The quick way through a JPEG file: decoded by libjpeg-turbo, resized by fast_image_resize.

Pillow does the same with the same libraries' older or plainer relatives: the decoded pixels are
equal, resized ones at most a level apart, more slowly (`benchmarks/data.py`). Both libraries
let go of the interpreter's lock.
"""

from __future__ import annotations

import threading
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
_own = threading.local()  # a Resizer keeps buffers, and serves one thread


def decode(content: bytes, height: int, width: int) -> Pixels | None:
    """Decode a JPEG to uint8 [H, W, 3], at the least of its eight sizes that is at least so large.

    Returns:
        None where anything about the file is unusual: Pillow then has the last word.
    """
    try:
        return simplejpeg.decode_jpeg(content, "RGB", min_height=height, min_width=width)
    except ValueError:
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
    options = ResizeOptions(
        resize_alg=_FILTERS[interpolation],
        crop_box=CropBox(left, top, right - left, bottom - top),
        use_alpha=False,
    )
    source = ImageData(pixels.shape[1], pixels.shape[0], PixelType.U8x3, pixels.tobytes())
    target = ImageData(size[1], size[0], PixelType.U8x3)
    _own.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(*size, 3)
