"""Check of a data set of image files before training, and the report on it for a terminal."""

from __future__ import annotations

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
from rich.table import Table
from rich.text import Text

from flax_resnet.data.audit.near_duplicates import DHASH_SHAPE, grey_thumbnail, near_pairs
from flax_resnet.data.images import (
    FORMATS,
    MAX_PIXELS,
    SPLIT_RATIOS,
    SPLITS,
    ImageDecodeError,
    ImageHeader,
    Member,
    SplitRatios,
    content_digest,
    find_images,
    map_in_threads,
    pluralize,
    read_bytes,
    read_header,
    thumbnail,
)
from flax_resnet.errors import one_line

TINY_SIDE = 32
"""The report lists images whose shorter side is below this, in pixels."""
MAX_ASPECT_RATIO = 4
"""The report lists images whose longer side is more than this many times the shorter one."""
HUGE_PIXELS = 50_000_000
"""The report lists images with more pixels than this, because they are slow to decode."""

# The largest class may have this many times as many images as the smallest without a note.
_MAX_IMBALANCE = 3.0


@dataclass(frozen=True)
class DuplicateGroup:
    """A group of exact copies, or a pair of near-duplicate images.

    Attributes:
        paths: Paths of the files.
        splits, classes: Split and class of each path.
        hash_distance: Number of bits, of 64, in which the difference hashes of a pair differ; 0
            for exact copies.
    """

    paths: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]
    hash_distance: int = 0

    @property
    def across_splits(self) -> bool:
        """Whether the files are in more than one split, which biases the evaluation."""
        return len(set(self.splits)) > 1

    @property
    def across_classes(self) -> bool:
        """Whether the files are in more than one class.

        Then at least one label of exact copies must be wrong; one of near-duplicates may be wrong.
        """
        return len(set(self.classes)) > 1


@dataclass(frozen=True)
class FolderReport:
    """The findings of ``check_folder``; paths are those of ``find_images``.

    Attributes:
        source: The folder or list.
        classes: Class names.
        counts: Number of images of each class, by split.
        notes: Notes of ``find_images``.
        left_out: Reason for each path that is named like an image and is in no split.
        unreadable: Reason for each path that cannot be read.
        extension_mismatch: Format of the content of each file with the extension of another format.
        duplicates: Groups of files with the same content.
        near_duplicates: Pairs of files with different content that look nearly the same.
        headers: Format and size of every image that can be read, by path.
    """

    source: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]
    left_out: Mapping[str, str]
    unreadable: Mapping[str, str]
    extension_mismatch: Mapping[str, str]
    duplicates: tuple[DuplicateGroup, ...]
    near_duplicates: tuple[DuplicateGroup, ...]
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
    def elongated(self) -> list[str]:
        """Paths of images whose aspect ratio exceeds ``MAX_ASPECT_RATIO``, wide or tall."""
        return [
            path
            for path, header in self.headers.items()
            if max(header.height, header.width)
            > MAX_ASPECT_RATIO * min(header.height, header.width)
        ]

    @property
    def huge(self) -> list[str]:
        """Paths of images with more than ``HUGE_PIXELS`` pixels."""
        return [p for p, h in self.headers.items() if h.height * h.width > HUGE_PIXELS]


def check_folder(
    source: str | os.PathLike[str],
    *,
    ratios: SplitRatios = SPLIT_RATIOS,
    columns: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> FolderReport:
    """Read and decode every image of a folder or list, and report what is wrong.

    Args:
        source: The folder or list, see ``find_images``.
        ratios: Proportions of the splits, see ``find_images``.
        columns: The columns of a list, see ``find_images``.
        max_pixels: Largest number of pixels of an image, see ``read_image``.

    Raises:
        UserError: As for ``find_images``. A file that cannot be read is a finding, not an error.
    """
    found = find_images(source, ratios=ratios, columns=columns)
    paths = [path for records in found.splits.values() for path in records.paths]
    splits = [split for split, records in found.splits.items() for _ in records.paths]
    labels = np.concatenate([records.labels for records in found.splits.values()])
    classes = [found.classes[label] for label in labels]
    inspected = map_in_threads(partial(_inspect, max_pixels), paths)

    def group_of(indices: Sequence[int], hash_distance: int = 0) -> DuplicateGroup:
        return DuplicateGroup(
            paths=tuple(paths[index] for index in indices),
            splits=tuple(splits[index] for index in indices),
            classes=tuple(classes[index] for index in indices),
            hash_distance=hash_distance,
        )

    by_content: defaultdict[str, list[int]] = defaultdict(list)
    for index, file in enumerate(inspected):
        if file.digest is not None:
            by_content[file.digest].append(index)
    # Only one file of each content, because exact copies are listed as duplicates already.
    representatives = [group[0] for group in by_content.values()]
    thumbnails = {
        index: grey for index in representatives if (grey := inspected[index].thumbnail) is not None
    }
    hashed = list(thumbnails)
    pairs = near_pairs(np.array(list(thumbnails.values()), np.float32).reshape(-1, *DHASH_SHAPE))
    return FolderReport(
        source=os.fspath(source),
        classes=found.classes,
        counts={
            split: tuple(np.bincount(records.labels, minlength=len(found.classes)).tolist())
            for split, records in found.splits.items()
        },
        notes=found.notes + found.missing_classes,
        left_out=found.left_out,
        unreadable={
            path: file.reason for path, file in zip(paths, inspected, strict=True) if file.reason
        },
        extension_mismatch={
            path: file.header.format
            for path, file in zip(paths, inspected, strict=True)
            if file.header
            and not path.lower().endswith(FORMATS[file.header.format])
            # A row of a Parquet file needs no name.
            and (not isinstance(path, Member) or os.path.splitext(path)[1])
        },
        duplicates=tuple(group_of(group) for group in by_content.values() if len(group) > 1),
        near_duplicates=tuple(
            group_of((hashed[first], hashed[second]), hash_distance)
            for first, second, hash_distance in pairs.tolist()
        ),
        headers={
            path: file.header for path, file in zip(paths, inspected, strict=True) if file.header
        },
    )


@dataclass(frozen=True)
class _InspectedFile:
    """One file: ``header`` and grey ``thumbnail`` if it can be decoded, else the ``reason``."""

    digest: str | None = None
    header: ImageHeader | None = None
    thumbnail: npt.NDArray[np.float32] | None = None
    reason: str = ""


def _inspect(max_pixels: int, path: str) -> _InspectedFile:
    digest = None
    try:
        content = read_bytes(path)
        digest = content_digest(content)
        # The thumbnail needs the whole image to be decoded, so damage anywhere is detected.
        grey = grey_thumbnail(thumbnail(content, DHASH_SHAPE, max_pixels=max_pixels))
        return _InspectedFile(digest, read_header(content, max_pixels=max_pixels), grey)
    except ImageDecodeError as error:
        return _InspectedFile(digest, reason=error.reason)


def render(report: FolderReport, *, limit: int = 5) -> RenderableType:
    """Return the report for ``rich.console.Console.print(..., soft_wrap=True)``.

    Long file names are not wrapped, so that they can be copied.

    Args:
        report: The report.
        limit: Largest number of files or groups of files to list for each finding.
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
        shown = [f"  {line}" for line in lines[:limit]]
        if len(lines) > limit:
            shown.append(f"  and {len(lines) - limit:,} more")
        parts += [Text(), Text(f"{name}: {len(lines):,}", "bold"), *map(Text, shown)]
    return Group(*parts)


def _counts(report: FolderReport) -> Table:
    table = Table(
        "class", title=Text(report.source, "table.title"), box=box.SIMPLE, title_justify="left"
    )
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
        table.add_row(Text(str(row[0])), *(f"{number:,}" for number in row[1:]))
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
        f"{pluralize(len(headers), 'image', 'images')}, {', '.join(formats)}; height {heights[0]} "
        f"to {heights[-1]} (median {median(heights):g}), width {widths[0]} to {widths[-1]} "
        f"(median {median(widths):g})"
    )


def _findings(report: FolderReport) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the title of each finding, with one line for each file or group of files."""

    def short(path: str) -> str:
        relative = os.path.isdir(report.source)
        name = os.path.relpath(path, report.source) if relative else path
        return one_line(name)

    def with_size(paths: Sequence[str]) -> list[str]:
        sizes = [report.headers[path] for path in paths]
        return [
            f"{short(path)} ({size.width}×{size.height})"
            for path, size in zip(paths, sizes, strict=True)
        ]

    def joined(group: DuplicateGroup) -> str:
        """Join the paths, each with its class and split where these differ within the group."""
        files = []
        for path, name, split in zip(group.paths, group.classes, group.splits, strict=True):
            facts = [name] * group.across_classes + [split] * group.across_splits
            files.append(f"{short(path)} ({', '.join(facts)})" if facts else short(path))
        return ", ".join(files)

    left_out = [f"{short(path)} {reason}" for path, reason in report.left_out.items()]
    unreadable = [f"{short(path)} {reason}" for path, reason in report.unreadable.items()]
    mismatches = [f"{short(path)} is {name}" for path, name in report.extension_mismatch.items()]
    findings: list[tuple[str, list[str]]] = [
        ("left out", left_out),
        ("no image, or damaged", unreadable),
        ("extension of another format", mismatches),
    ]
    for what, groups in (
        ("same file", report.duplicates),
        ("nearly the same image", report.near_duplicates),
    ):
        # Each group is listed once, under the title of its most serious problem.
        classes = [group for group in groups if group.across_classes]
        splits = [group for group in groups if group.across_splits and not group.across_classes]
        rest = [group for group in groups if not (group.across_splits or group.across_classes)]
        findings += [
            (f"{what} in several classes", [joined(group) for group in classes]),
            (f"{what} in several splits", [joined(group) for group in splits]),
            (f"{what} within a class", [joined(group) for group in rest]),
        ]
    findings += [
        (f"side below {TINY_SIDE} pixels", with_size(report.tiny)),
        (f"longer than {MAX_ASPECT_RATIO}:1", with_size(report.elongated)),
        (f"more than {HUGE_PIXELS // 10**6} megapixels", with_size(report.huge)),
    ]
    return ((name, lines) for name, lines in findings if lines)
