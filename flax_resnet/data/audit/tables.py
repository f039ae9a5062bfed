"""The report on a folder of images for a terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from statistics import median

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flax_resnet.data.audit.check import HUGE_PIXELS, LONG_RATIO, TINY_SIDE, Alike, FolderReport
from flax_resnet.data.images.records import SPLITS, counted

# Classes that differ by less than this need no remedy.
_IMBALANCE = 3.0


def render(report: FolderReport, *, most: int = 5) -> RenderableType:
    """Return the report for `rich.console.Console.print(..., soft_wrap=True)`.

    Long names of files stay whole on their line, so that they can be copied.

    Args:
        most: files or groups of files to name for each finding; the report has them all.
    """
    parts: list[RenderableType] = [_counts(report), _sizes(report)]
    parts += [Text(f"note: {note}") for note in report.notes]
    if report.imbalance >= _IMBALANCE:
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
    """Yield each kind of finding that there is, with a line for each case."""

    def short(path: str) -> str:
        return os.path.relpath(path, report.source) if os.path.isdir(report.source) else path

    def sized(paths: Sequence[str]) -> list[str]:
        sizes = [report.headers[path] for path in paths]
        return [
            f"{short(path)} ({size.width}×{size.height})"
            for path, size in zip(paths, sizes, strict=True)
        ]

    def together(group: Alike) -> str:
        marked = ", ".join(
            f"{short(path)} ({split})" if group.across_splits else short(path)
            for path, split in zip(group.paths, group.splits, strict=True)
        )
        return marked

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
        # Each group where it does most harm.
        classes = [group for group in groups if group.across_classes]
        splits = [group for group in groups if group.across_splits and not group.across_classes]
        rest = [group for group in groups if not group.across_splits | group.across_classes]
        kinds += [
            (f"{what} in two classes", [together(group) for group in classes]),
            (f"{what} in two splits", [together(group) for group in splits]),
            (f"{what} within a class", [together(group) for group in rest]),
        ]
    kinds += [
        (f"side below {TINY_SIDE} pixels", sized(report.tiny)),
        (f"longer than {LONG_RATIO}:1", sized(report.long)),
        (f"more than {HUGE_PIXELS // 10**6} megapixels", sized(report.huge)),
    ]
    return ((name, lines) for name, lines in kinds if lines)
