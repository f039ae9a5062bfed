"""A look at a data set of image files before training: what is there, and what is wrong."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from flax_resnet.data.audit.near_duplicates import TILE, grey_tile, near_pairs
from flax_resnet.data.images.decoding import read_bytes
from flax_resnet.data.images.folder import find_images
from flax_resnet.data.images.reading import (
    MAX_PIXELS,
    BadImage,
    ImageHeader,
    read_header,
    thumbnail,
)
from flax_resnet.data.images.records import RATIOS, Ratios, in_threads

TINY_SIDE = 32
"""Images with a shorter side below this, in pixels, are named."""
LONG_RATIO = 4
"""So are those whose longer side is more than this many times the shorter,"""
HUGE_PIXELS = 50_000_000
"""and those of more pixels than this, which are slow to decode."""

_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True)
class Alike:
    """Files with the same content, or two that look nearly the same.

    Attributes:
        splits, classes: of each path.
        bits: in how many of 64 bits their difference hashes differ.
    """

    paths: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    bits: int = 0

    @property
    def across_splits(self) -> bool:
        """Whether an evaluation would see what was trained on, or two would see the same."""
        return len(set(self.splits)) > 1

    @property
    def across_classes(self) -> bool:
        """Whether one of the labels must be wrong."""
        return len(set(self.classes)) > 1


@dataclass(frozen=True)
class FolderReport:
    """What `check_folder` found; paths as `find_images` gives them.

    Attributes:
        counts: split -> number of images of each class.
        notes: of `find_images`.
        unreadable: path -> reason.
        wrong_endings: path -> the format that the content is of.
        duplicates: groups of files with the same content.
        near_duplicates: pairs of files with other content that look the same.
        headers: path -> format and size of every image that can be read.
    """

    source: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]
    unreadable: Mapping[str, str]
    wrong_endings: Mapping[str, str]
    duplicates: tuple[Alike, ...]
    near_duplicates: tuple[Alike, ...]
    headers: Mapping[str, ImageHeader]

    @property
    def imbalance(self) -> float:
        """How many times as many images the largest class of train has as the smallest."""
        return max(self.counts["train"]) / max(min(self.counts["train"]), 1)

    @property
    def tiny(self) -> list[str]:
        """Paths of images with a side of less than `TINY_SIDE` pixels."""
        return [p for p, h in self.headers.items() if min(h.height, h.width) < TINY_SIDE]

    @property
    def long(self) -> list[str]:
        """Paths of images more than `LONG_RATIO` times as long as they are wide, or the reverse."""
        return [
            path
            for path, header in self.headers.items()
            if max(header.height, header.width) > LONG_RATIO * min(header.height, header.width)
        ]

    @property
    def huge(self) -> list[str]:
        """Paths of images of more than `HUGE_PIXELS` pixels."""
        return [p for p, h in self.headers.items() if h.height * h.width > HUGE_PIXELS]


def check_folder(
    source: str | os.PathLike[str], *, ratios: Ratios = RATIOS, max_pixels: int = MAX_PIXELS
) -> FolderReport:
    """Read and decode every image of a folder or list, and say what was found.

    Args:
        ratios: see `find_images`.
        max_pixels: see `images.read_image`.

    Raises:
        UserError: as for `find_images`. Files that cannot be read are a finding, not an error.
    """
    records = find_images(source, ratios=ratios)
    paths = [path for part in records.splits.values() for path in part.paths]
    splits = [name for name, part in records.splits.items() for _ in part.paths]
    labels = np.concatenate([part.labels for part in records.splits.values()])
    classes = [records.classes[label] for label in labels]
    seen = in_threads(partial(_look, max_pixels), paths)

    def similar(positions: Sequence[int], bits: int = 0) -> Alike:
        return Alike(
            paths=tuple(paths[at] for at in positions),
            splits=tuple(splits[at] for at in positions),
            classes=tuple(classes[at] for at in positions),
            bits=bits,
        )

    by_content: defaultdict[bytes, list[int]] = defaultdict(list)
    for position, look in enumerate(seen):
        if look.digest is not None:
            by_content[look.digest].append(position)
    # One of each content: a copy looks the same, which goes without saying.
    firsts = [group[0] for group in by_content.values()]
    tiles = {at: tile for at in firsts if (tile := seen[at].tile) is not None}
    places = list(tiles)
    pairs = near_pairs(np.array(list(tiles.values()), np.float32).reshape(-1, *TILE))
    return FolderReport(
        source=os.fspath(source),
        classes=records.classes,
        counts={
            name: tuple(np.bincount(part.labels, minlength=len(records.classes)).tolist())
            for name, part in records.splits.items()
        },
        notes=records.notes,
        unreadable={p: look.reason for p, look in zip(paths, seen, strict=True) if look.reason},
        wrong_endings={
            path: look.header.format
            for path, look in zip(paths, seen, strict=True)
            if look.header and not path.lower().endswith(_ENDINGS[look.header.format])
        },
        duplicates=tuple(similar(group) for group in by_content.values() if len(group) > 1),
        near_duplicates=tuple(
            similar((places[one], places[other]), bits) for one, other, bits in pairs.tolist()
        ),
        headers={p: look.header for p, look in zip(paths, seen, strict=True) if look.header},
    )


@dataclass(frozen=True)
class _Look:
    """What one file is; `reason` says why it is no image, else `header` and `tile` are there."""

    digest: bytes | None = None
    header: ImageHeader | None = None
    tile: npt.NDArray[np.float32] | None = None
    reason: str = ""


def _look(max_pixels: int, path: str) -> _Look:
    digest = None
    try:
        content = read_bytes(path)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        # The whole image is decoded for the tile, so damage anywhere shows.
        tile = grey_tile(thumbnail(content, TILE, max_pixels=max_pixels))
        return _Look(digest, read_header(content, max_pixels=max_pixels), tile)
    except BadImage as error:
        return _Look(digest, reason=error.reason)
