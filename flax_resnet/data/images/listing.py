"""Lists of images: CSV or JSONL files with a path, a label and optionally a split per line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flax_resnet.data.images.records import Entry, first_few
from flax_resnet.data.images.splits import SPLIT_ALIASES
from flax_resnet.errors import UserError
from flax_resnet.paths import expand_text

_COLUMNS = ("path", "label", "split")
_WHOLE_NUMBER = re.compile(r"-?\d{1,9}")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def read_listing(
    path: str, classes: Sequence[str] | None = None
) -> tuple[list[Entry], tuple[str, ...], list[str]]:
    """Read a list of images.

    A CSV file begins with a line of column names, ``path,label`` or ``path,label,split`` in any
    order, separated by commas, semicolons or tabs; other columns are ignored. Each line of a
    JSONL file is an object with these keys. Paths are relative to the list's folder. A split is
    one of ``SPLIT_ALIASES``, on every line or on none.

    Args:
        path: Path of the list.
        classes: Class names in order; a label is then a class name or a number from 0. Without
            them, the sorted labels are the class names, sorted as numbers if all are numbers.

    Returns:
        The entries in the list's order, the class names, and notes for the user.

    Raises:
        UserError: The list cannot be read or parsed or is empty, names files that do not exist,
            names a file twice with different labels or splits, or has a label out of range.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error}): save it as such") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    read = _csv_rows if path.lower().endswith(".csv") else _jsonl_rows
    rows = list(read(path, text))
    if not rows:
        raise UserError(f"{path} lists no images: add lines with a path and a label")
    for row in rows:
        if not row.path or not row.label:
            raise UserError(f"{path}, line {row.line}: the path or the label is empty; fill it in")
    splits = _splits(path, rows)
    files = _files(path, rows)
    names, labels, notes = _labels(path, rows, classes)
    entries = [Entry(*entry) for entry in zip(files, labels, splits, strict=True)]
    return _without_repeats(path, rows, entries), names, notes


def _csv_rows(path: str, text: str) -> Iterator[_Row]:
    heading = text.partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        if "path" not in columns or "label" not in columns or len(set(columns)) < len(columns):
            raise UserError(
                f"{path}, line 1: it must name the columns, as in path,label or path,label,split; "
                f"it is {heading.strip()[:80]!r}"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(cells)} values for {len(columns)} "
                    "columns; put values that hold the separator into double quotes"
                )
            values = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            yield _Row(reader.line_num, *(values.get(name, "") for name in _COLUMNS))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}); correct it") from error


def _jsonl_rows(path: str, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); correct it") from error
        if not isinstance(value, dict) or "path" not in value or "label" not in value:
            raise UserError(
                f'{path}, line {number}: not of the form {{"path": "a.jpg", "label": "cat"}}, '
                'optionally with "split"; correct it'
            )
        yield _Row(number, *(_text(path, number, name, value.get(name)) for name in _COLUMNS))


def _text(path: str, number: int, name: str, value: Any) -> str:
    """Return a string or whole number as text; null becomes the empty string."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(
            f"{path}, line {number}: {name} is {str(value)[:40]}; it must be a string, or, for a "
            "label, a whole number"
        )
    return str(value).strip()


def _splits(path: str, rows: Sequence[_Row]) -> list[str | None]:
    """Return the split of every row, as one of ``SPLITS``, or None for all rows."""
    splits: list[str | None] = []
    for row in rows:
        if row.split and row.split.lower() not in SPLIT_ALIASES:
            raise UserError(
                f"{path}, line {row.line}: the split {row.split!r} is not one of "
                f"{', '.join(SPLIT_ALIASES)}; correct it, or swap the columns if they are mixed up"
            )
        splits.append(SPLIT_ALIASES[row.split.lower()] if row.split else None)
    if None in splits and any(splits):
        line = rows[splits.index(None)].line
        raise UserError(f"{path}, line {line}: it has no split, but other lines have one; add it")
    if any(splits) and "train" not in splits:
        raise UserError(f"{path} has no line with the split train: add some")
    return splits


def _files(path: str, rows: Sequence[_Row]) -> list[str]:
    """Return the paths of the files, after checking that all of them exist."""
    folder = os.path.dirname(path)
    files = [os.path.join(folder, expand_text(row.path)) for row in rows]
    absent = [row for row, file in zip(rows, files, strict=True) if not os.path.isfile(file)]
    if not absent:
        return files
    if all(os.path.isfile(os.path.join(folder, row.label)) for row in absent):
        raise UserError(f"{path} has files in the column label: swap the column names")
    raise UserError(
        f"{path} names {len(absent):,} of {len(rows):,} files that do not exist, the first in line "
        f"{absent[0].line} ({first_few([row.path for row in absent])}): paths are relative to the "
        "folder of the list; correct them or remove the lines"
    )


def _labels(
    path: str, rows: Sequence[_Row], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the class names, the label of every row, and notes."""
    found = {row.label for row in rows}
    numbers = all(_WHOLE_NUMBER.fullmatch(label) for label in found)
    if len(found) > 1 and all(label.lower() in SPLIT_ALIASES for label in found):
        raise UserError(
            f"{path} has splits in the column label ({first_few(sorted(found))}): swap the "
            "column names"
        )
    if classes is not None:
        label_of = {name: label for label, name in enumerate(classes)}
        if numbers:
            label_of = {str(label): label for label in range(len(classes))} | label_of
        for row in rows:
            if row.label not in label_of:
                raise UserError(
                    f"{path}, line {row.line}: the label {row.label!r} is out of range; it must be "
                    f"one of {first_few(list(classes), 5)} or a number from 0 to {len(classes) - 1}"
                )
        return tuple(classes), [label_of[row.label] for row in rows], []
    if not numbers:
        label_of = {name: label for label, name in enumerate(sorted(found))}
        return tuple(label_of), [label_of[row.label] for row in rows], []
    values = sorted({int(label) for label in found})
    if values[0] < 0:
        line = next(row.line for row in rows if int(row.label) < 0)
        raise UserError(
            f"{path}, line {line}: the label {values[0]} is out of range; labels count from 0, "
            "and images without a label cannot be used"
        )
    index_of = {value: label for label, value in enumerate(values)}
    notes = []
    if values != list(range(len(values))):
        notes = [
            f"{path}: the labels are not 0 to {len(values) - 1}; they are renumbered in order, and "
            f"remain the class names ({first_few([str(value) for value in values])})"
        ]
    labels = [index_of[int(row.label)] for row in rows]
    return tuple(str(value) for value in values), labels, notes


def _without_repeats(path: str, rows: Sequence[_Row], entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries with each file once.

    Raises:
        UserError: A file has two labels or splits.
    """
    first: dict[str, tuple[int, Entry]] = {}
    for row, entry in zip(rows, entries, strict=True):
        line, known = first.setdefault(os.path.normpath(entry.path), (row.line, entry))
        if (known.label, known.split) != (entry.label, entry.split):
            raise UserError(
                f"{path}, lines {line} and {row.line}: {row.path} is listed with two labels or "
                "splits; remove one of the lines"
            )
    return [entry for _, entry in first.values()]
