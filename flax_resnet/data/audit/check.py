"""Check of a data set of image files before training, and the report on it for a terminal."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flax_resnet.data.audit.near_duplicates import TILE, grey_tile, near_pairs
from flax_resnet.data.images import (
    MAX_PIXELS,
    RATIOS,
    SPLITS,
    BadImage,
    ImageHeader,
    Ratios,
    counted,
    find_images,
    map_in_threads,
    read_bytes,
    read_header,
    thumbnail,
)

TINY_SIDE = 32
"""The report lists images whose shorter side is below this, in pixels."""
LONG_RATIO = 4
"""The report lists images whose longer side is more than this many times the shorter one."""
HUGE_PIXELS = 50_000_000
"""The report lists images with more pixels than this, because they are slow to decode."""

# The largest class may have this many times as many images as the smallest without a note.
_MAX_IMBALANCE = 3.0
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
}


@dataclass(frozen=True)
class SimilarImages:
    """A group of files with the same content, or a pair of images that look nearly the same.

    Attributes:
        paths: Paths of the files.
        splits, classes: Split and class of each path.
        bits: Number of bits, of 64, in which the difference hashes of a pair differ.
    """

    paths: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    bits: int = 0

    @property
    def across_splits(self) -> bool:
        """Whether they are in several splits, so that a model is evaluated on training images."""
        return len(set(self.splits)) > 1

    @property
    def across_classes(self) -> bool:
        """Whether they are in several classes, so that one of the labels must be wrong."""
        return len(set(self.classes)) > 1


@dataclass(frozen=True)
class FolderReport:
    """The findings of ``check_folder``; paths are those of ``find_images``.

    Attributes:
        source: The folder or list.
        classes: Class names.
        counts: Number of images of each class, by split.
        notes: Notes of ``find_images``.
        unreadable: Reason for each path that cannot be read.
        wrong_endings: Format of the content for each path with the ending of another format.
        duplicates: Groups of files with the same content.
        near_duplicates: Pairs of files with different content that look nearly the same.
        headers: Format and size of every image that can be read, by path.
    """

    source: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]
    unreadable: Mapping[str, str]
    wrong_endings: Mapping[str, str]
    duplicates: tuple[SimilarImages, ...]
    near_duplicates: tuple[SimilarImages, ...]
    headers: Mapping[str, ImageHeader]

    @property
    def imbalance(self) -> float:
        """Number of images of the largest class of train, divided by that of the smallest."""
        return max(self.counts["train"]) / max(min(self.counts["train"]), 1)

    @property
    def tiny(self) -> list[str]:
        """Paths of images with a side shorter than ``TINY_SIDE`` pixels."""
        return [p for p, h in self.headers.items() if min(h.height, h.width) < TINY_SIDE]

    @property
    def long(self) -> list[str]:
        """Paths of images whose longer side is more than ``LONG_RATIO`` times the shorter one."""
        return [
            path
            for path, header in self.headers.items()
            if max(header.height, header.width) > LONG_RATIO * min(header.height, header.width)
        ]

    @property
    def huge(self) -> list[str]:
        """Paths of images with more than ``HUGE_PIXELS`` pixels."""
        return [p for p, h in self.headers.items() if h.height * h.width > HUGE_PIXELS]


def check_folder(
    source: str | os.PathLike[str], *, ratios: Ratios = RATIOS, max_pixels: int = MAX_PIXELS
) -> FolderReport:
    """Read and decode every image of a folder or list, and report what is wrong.

    Args:
        source: The folder or list, see ``find_images``.
        ratios: Proportions of the splits, see ``find_images``.
        max_pixels: Largest number of pixels of an image, see ``read_image``.

    Raises:
        UserError: As for ``find_images``. A file that cannot be read is a finding, not an error.
    """
    found = find_images(source, ratios=ratios)
    paths = [path for records in found.splits.values() for path in records.paths]
    splits = [split for split, records in found.splits.items() for _ in records.paths]
    labels = np.concatenate([records.labels for records in found.splits.values()])
    classes = [found.classes[label] for label in labels]
    inspected = map_in_threads(partial(_inspect, max_pixels), paths)

    def similar(indices: Sequence[int], bits: int = 0) -> SimilarImages:
        return SimilarImages(
            paths=tuple(paths[index] for index in indices),
            splits=tuple(splits[index] for index in indices),
            classes=tuple(classes[index] for index in indices),
            bits=bits,
        )

    by_content: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, file in enumerate(inspected):
        if file.digest is not None:
            by_content[file.digest].append(index)
    # Only one file of each content, because exact copies are listed as duplicates already.
    firsts = [group[0] for group in by_content.values()]
    tiles = {index: tile for index in firsts if (tile := inspected[index].tile) is not None}
    tile_indices = list(tiles)
    pairs = near_pairs(np.array(list(tiles.values()), np.float32).reshape(-1, *TILE))
    return FolderReport(
        source=os.fspath(source),
        classes=found.classes,
        counts={
            split: tuple(np.bincount(records.labels, minlength=len(found.classes)).tolist())
            for split, records in found.splits.items()
        },
        notes=found.notes,
        unreadable={
            path: file.reason for path, file in zip(paths, inspected, strict=True) if file.reason
        },
        wrong_endings={
            path: file.header.format
            for path, file in zip(paths, inspected, strict=True)
            if file.header and not path.lower().endswith(_ENDINGS[file.header.format])
        },
        duplicates=tuple(similar(group) for group in by_content.values() if len(group) > 1),
        near_duplicates=tuple(
            similar((tile_indices[first], tile_indices[second]), bits)
            for first, second, bits in pairs.tolist()
        ),
        headers={
            path: file.header for path, file in zip(paths, inspected, strict=True) if file.header
        },
    )


@dataclass(frozen=True)
class _InspectedFile:
    """One file: ``header`` and ``tile`` if it is an image, else the ``reason`` why it is not."""

    digest: bytes | None = None
    header: ImageHeader | None = None
    tile: npt.NDArray[np.float32] | None = None
    reason: str = ""


def _inspect(max_pixels: int, path: str) -> _InspectedFile:
    digest = None
    try:
        content = read_bytes(path)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        # The tile needs the whole image to be decoded, so damage anywhere is detected.
        tile = grey_tile(thumbnail(content, TILE, max_pixels=max_pixels))
        return _InspectedFile(digest, read_header(content, max_pixels=max_pixels), tile)
    except BadImage as error:
        return _InspectedFile(digest, reason=error.reason)


def render(report: FolderReport, *, most: int = 5) -> RenderableType:
    """Return the report for ``rich.console.Console.print(..., soft_wrap=True)``.

    Long file names are not wrapped, so that they can be copied.

    Args:
        report: The report.
        most: Largest number of files or groups of files to list for each finding.
    """
    parts: list[RenderableType] = [_counts(report), _sizes(report)]
    parts += [Text(f"note: {note}") for note in report.notes]
    if report.imbalance >= _MAX_IMBALANCE:
        parts.append(
            Text(
                f"note: the largest class of train has {report.imbalance:.1f} times as many images "
                "as the smallest"
            )
        )
    findings = list(_findings(report))
    if not findings:
        return Group(*parts, Text("nothing wrong was found"))
    for name, lines in findings:
        shown = [f"  {line}" for line in lines[:most]]
        if len(lines) > most:
            shown.append(f"  and {len(lines) - most:,} more")
        parts += [Text(), Text(f"{name}: {len(lines):,}", "bold"), *map(Text, shown)]
    return Group(*parts)


def _counts(report: FolderReport) -> Table:
    table = Table("class", title=escape(report.source), box=box.SIMPLE, title_justify="left")
    shown = [split for split in SPLITS if any(report.counts[split])]
    for split in (*shown, "all"):
        table.add_column(split, justify="right")
    rows = [
        [name, *numbers, sum(numbers)]
        for name, *numbers in zip(
            report.classes, *(report.counts[split] for split in shown), strict=True
        )
    ]
    for row in rows:
        table.add_row(escape(str(row[0])), *(f"{number:,}" for number in row[1:]))
    table.add_section()
    totals = [sum(report.counts[split]) for split in shown]
    table.add_row("all", *(f"{number:,}" for number in (*totals, sum(totals))))
    return table


def _sizes(report: FolderReport) -> Text:
    headers = report.headers.values()
    if not headers:
        return Text("no image can be read")
    heights = sorted(header.height for header in headers)
    widths = sorted(header.width for header in headers)
    formats = sorted({header.format for header in headers})
    return Text(
        f"{counted(len(headers), 'image', 'images')}, {', '.join(formats)}; height {heights[0]} to "
        f"{heights[-1]} (median {median(heights):g}), width {widths[0]} to {widths[-1]} "
        f"(median {median(widths):g})"
    )


def _findings(report: FolderReport) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the title of each finding, with one line for each file or group of files."""

    def short(path: str) -> str:
        return os.path.relpath(path, report.source) if os.path.isdir(report.source) else path

    def sized(paths: Sequence[str]) -> list[str]:
        sizes = [report.headers[path] for path in paths]
        return [
            f"{short(path)} ({size.width}×{size.height})"
            for path, size in zip(paths, sizes, strict=True)
        ]

    def joined(group: SimilarImages) -> str:
        return ", ".join(
            f"{short(path)} ({split})" if group.across_splits else short(path)
            for path, split in zip(group.paths, group.splits, strict=True)
        )

    unreadable = [f"{short(path)} {reason}" for path, reason in report.unreadable.items()]
    endings = [f"{short(path)} is {name}" for path, name in report.wrong_endings.items()]
    kinds: list[tuple[str, list[str]]] = [
        ("no image, or damaged", unreadable),
        ("ending of another format", endings),
    ]
    for what, groups in (
        ("same file", report.duplicates),
        ("nearly the same image", report.near_duplicates),
    ):
        # Each group is listed once, under the title of its most serious problem.
        classes = [group for group in groups if group.across_classes]
        splits = [group for group in groups if group.across_splits and not group.across_classes]
        rest = [group for group in groups if not group.across_splits | group.across_classes]
        kinds += [
            (f"{what} in two classes", [joined(group) for group in classes]),
            (f"{what} in two splits", [joined(group) for group in splits]),
            (f"{what} within a class", [joined(group) for group in rest]),
        ]
    kinds += [
        (f"side below {TINY_SIDE} pixels", sized(report.tiny)),
        (f"longer than {LONG_RATIO}:1", sized(report.long)),
        (f"more than {HUGE_PIXELS // 10**6} megapixels", sized(report.huge)),
    ]
    return ((name, lines) for name, lines in kinds if lines)
