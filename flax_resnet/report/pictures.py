"""Small pictures of images for pages: which are shown, and their WebP files."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..data import Source
from ..data.images import ImageDecodeError
from ..errors import UserError

SIDE = 112  # pixels of the longer side
EXTREMES = 24  # worst mistakes, and most confident hits
PER_MISTAKE, PER_HIT = 12, 6  # pictures of a cell of the confusion matrix
MOST = 2000  # pictures of a page
MOST_BYTES = 5_000_000  # of all; a page has them in base64, a third longer
_BATCH = 64


def choose_rows(labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> list[int]:
    """Choose the images whose pictures a page holds, the most important first.

    These are the most confident mistakes and hits, then of each cell of the confusion matrix the
    most confident ones, every cell in turn.

    Args:
        labels: True classes, ``[N]``.
        predicted: Predicted classes, ``[N]``.
        confidence: Their probabilities, ``[N]``.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = (predicted != labels)[order]
    mistakes, hits = order[wrong], order[~wrong]
    rank = np.empty(len(order), np.int64)
    seen: dict[tuple[int, int], int] = {}
    for row in order:
        cell = labels[row], predicted[row]
        rank[row] = seen[cell] = seen.get(cell, -1) + 1
    chosen = [*mistakes[:EXTREMES], *hits[:EXTREMES]]
    chosen += sorted(mistakes[rank[mistakes] < PER_MISTAKE], key=lambda row: rank[row])
    chosen += sorted(hits[rank[hits] < PER_HIT], key=lambda row: rank[row])
    return [int(row) for row in dict.fromkeys(chosen)][:MOST]


def read_pictures(images: Source, indices: Sequence[int]) -> dict[int, bytes]:
    """Read images of a source as WebP files.

    Args:
        images: The source, from which images come as the model sees them.
        indices: Indices into the source, the most important first; later ones are left out where
            ``MOST_BYTES`` is reached.

    Returns:
        The files by index; images that cannot be read are left out.
    """
    pictures: dict[int, bytes] = {}
    size = 0
    for start in range(0, len(indices), _BATCH):
        part = np.asarray(indices[start : start + _BATCH])
        try:
            batch = images.gather(part)
        except (ImageDecodeError, UserError, OSError):  # the files have moved
            continue
        mask = batch.get("mask", np.ones(len(part), bool))
        for index, pixels, is_read in zip(part.tolist(), batch["image"], mask, strict=True):
            if is_read:
                pictures[index] = to_webp(pixels)
                size += len(pictures[index])
        if size > MOST_BYTES:
            break
    return pictures


def to_webp(pixels: np.ndarray, side: int = SIDE, lossless: bool = False) -> bytes:
    """Return pixels as a WebP file.

    Args:
        pixels: uint8 ``[H, W, C]``. The first three channels are shown as red, green and blue, and
            of fewer than three the first as grey.
        side: Longest side in pixels; larger images are reduced.
        lossless: Whether every pixel is kept.
    """
    shown = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, -1)
    image = Image.fromarray(np.ascontiguousarray(shown))
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "webp", quality=72, method=3, lossless=lossless)
    return file.getvalue()


def data_uri(picture: bytes, kind: str = "webp") -> str:
    """Return the URI that holds a picture's file itself."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def filter_grid(kernels: np.ndarray, most: int = 256) -> np.ndarray:
    """Return the filters of a first convolution as one picture.

    Each is scaled to its own lowest and highest weight, and shown in colour where it has three
    channels, else as the mean of its channels in grey.

    Args:
        kernels: ``[out, in, h, w]``, as PyTorch stores them.
        most: The first so many filters are shown.

    Returns:
        uint8 ``[H, W, 3]``, one pixel for each weight and one between filters.
    """
    tiles = kernels[:most].astype(np.float64)
    if tiles.shape[1] != 3:
        tiles = tiles.mean(1, keepdims=True).repeat(3, 1)
    low = tiles.min((1, 2, 3), keepdims=True)
    high = tiles.max((1, 2, 3), keepdims=True)
    levels = 255 * (tiles - low) / np.maximum(high - low, 1e-12)
    count, _, height, width = levels.shape
    columns = int(np.ceil(np.sqrt(count * 2)))
    lines = -(-count // columns)
    grid = np.full((lines * (height + 1) + 1, columns * (width + 1) + 1, 3), 128, np.uint8)
    for index, tile in enumerate(levels.round().astype(np.uint8)):
        top, left = (
            n * (s + 1) + 1 for n, s in zip(divmod(index, columns), (height, width), strict=True)
        )
        grid[top : top + height, left : left + width] = tile.transpose(1, 2, 0)
    return grid
