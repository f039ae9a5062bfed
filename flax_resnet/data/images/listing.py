"""Lists of images: CSV or JSONL files with a path, a label and optionally a split per line."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from flax_resnet.data.images.columns import choose_columns
from flax_resnet.data.images.listed_files import find_listed
from flax_resnet.data.images.matching import NUMBERS, Namings
from flax_resnet.data.images.records import Entry, first_few
from flax_resnet.data.images.splits import SPLIT_ALIASES
from flax_resnet.data.images.tables import Table, read_table
from flax_resnet.errors import UserError

_WHOLE_NUMBER = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


@dataclass(frozen=True)
class ListedFile:
    """A file of a list; ``error`` says why it cannot be used, as a predicate, and is "" if it can.

    Attributes:
        path: The file, or the path as the list has it if there is no such file.
        error: Such as ``does not exist``.
    """

    path: str
    error: str = ""


def read_listing(
    path: str,
    classes: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    other_names: Namings = MappingProxyType({}),
) -> tuple[list[Entry], tuple[str, ...], list[str]]:
    """Read a list of images.

    The first line of a CSV file (``tables.read_table``) names the columns: ``path``, ``label`` and
    optionally ``split``, or other usual names (``columns.choose_columns``). Each line of a JSONL
    file is an object with such keys. Paths are those of ``listed_files.find_listed``. Labels are
    strings as written, without spaces around them: ``1`` and ``01`` are two classes. A split is one
    of ``SPLIT_ALIASES``, on every line or on none.

    Args:
        path: Path of the list.
        classes: Class names in order; the labels are then all class names, or all numbers from 0,
            and no training split is needed. Without them, the sorted labels are the class names,
            sorted as numbers if all are numbers.
        other_names: Other names that labels of ``classes`` may have, see ``match_classes``.
        columns: Names of the columns of path, label and optionally split; by default they are
            recognized.

    Returns:
        The entries in the list's order, the class names, and notes for the user.

    Raises:
        UserError: The list cannot be read or parsed or is empty, its columns are not clear, it
            names files that do not exist, names a file twice with different labels or splits, or
            has a label out of range.
    """
    table = read_table(path)
    if not table.rows:
        raise UserError(f"{path} lists no images: add lines with a path and a label")
    chosen, notes = choose_columns(table, columns)
    rows = list(_rows(table, chosen))
    for row in rows:
        if not row.path or not row.label:
            raise UserError(f"{path}, line {row.line}: the path or the label is empty; fill it in")
    splits = _splits(path, rows, classes)
    files, relative = _files(path, rows)
    names, labels, about_labels = _labels(path, rows, classes, other_names)
    entries = [Entry(*entry) for entry in zip(files, labels, splits, strict=True)]
    notes += [*([relative] if relative else []), *about_labels]
    return _without_repeats(path, rows, entries), names, notes


def read_listed_files(path: str, columns: Sequence[str] | None = None) -> list[ListedFile]:
    """Read the files of a list that needs no labels, in order.

    Args:
        path: Path of the list.
        columns: Name of the column of paths, first; by default it is recognized.

    Raises:
        UserError: The list cannot be read or parsed, or its columns are not clear.
    """
    table = read_table(path)
    if not table.rows:
        return []
    chosen, _ = choose_columns(table, columns, labelled=False)
    texts = table.column(chosen[0])
    found, _ = find_listed(path, texts)
    listed = []
    for line, text, files in zip(table.lines, texts, found, strict=True):
        if len(files) == 1:
            listed.append(ListedFile(files[0]))
        elif files:
            reason = f"could be {files[0]} or {files[1]} (line {line} of {path})"
            listed.append(ListedFile(text, reason))
        else:
            listed.append(ListedFile(text, f"does not exist (line {line} of {path})"))
    return listed


def _rows(table: Table, columns: Sequence[str]) -> Iterator[_Row]:
    values = [table.column(name) for name in columns]
    splits = values[2] if len(values) > 2 else [""] * len(table.lines)
    for line, path, label, split in zip(table.lines, *values[:2], splits, strict=True):
        yield _Row(line, path, label.strip(), split.strip())


def _splits(path: str, rows: Sequence[_Row], classes: Sequence[str] | None) -> list[str | None]:
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
    if any(splits) and "train" not in splits and classes is None:
        raise UserError(f"{path} has no line with the split train: add some")
    return splits


def _files(path: str, rows: Sequence[_Row]) -> tuple[list[str], str]:
    """Return the paths of the files, and a note about the folder that they are relative to.

    Raises:
        UserError: A file does not exist, or a path could name two files.
    """
    found, note = find_listed(path, [row.path for row in rows])
    for row, files in zip(rows, found, strict=True):
        if len(files) > 1:
            raise UserError(
                f"{path}, line {row.line}: {row.path} could be {files[0]} or {files[1]}; write "
                "the whole name"
            )
    if all(found):
        return [file for (file,) in found], note
    folder = os.path.dirname(path)
    absent = [row for row, files in zip(rows, found, strict=True) if not files]
    if all(os.path.isfile(os.path.join(folder, row.label)) for row in absent):
        raise UserError(f"{path} has files in the column label: swap the column names")
    raise UserError(
        f"{path} names {len(absent):,} of {len(rows):,} files that do not exist, the first in line "
        f"{absent[0].line} ({first_few([row.path for row in absent])}): paths are relative to the "
        "folder of the list; correct them or remove the lines"
    )


def number_labels(
    source: str,
    labels: Sequence[str],
    where: Callable[[int], str],
    classes: Sequence[str] | None = None,
    other_names: Namings = MappingProxyType({}),
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Number the labels that a list or shards give as text.

    Args:
        source: The list or the folder of shards, for messages.
        labels: The label of each image, as written.
        where: Function from the index of an image to where its label stands, such as
            ``photos.csv, line 3``.
        classes: Class names in order; the labels are then all class names, or all numbers from 0.
            Without them, the sorted labels are the class names, sorted as numbers if all are
            numbers.
        other_names: Other names that labels of ``classes`` may have, see ``match_classes``.

    Returns:
        The class names, the label of every image, and notes for the user.

    Raises:
        UserError: A label is out of range, or could be the name of one class and the number of
            another.
    """
    found = set(labels)
    notes = _similar_labels(source, found)
    first = {label: index for index, label in reversed(list(enumerate(labels)))}
    places = {label: where(index) for label, index in sorted(first.items(), key=lambda x: x[1])}
    if classes is not None:
        index_of = _index_of(source, places, classes, other_names)
        return tuple(classes), [index_of[label] for label in labels], notes
    names = sorted(found)
    if all(_WHOLE_NUMBER.fullmatch(label) for label in found):
        names.sort(key=int)
        if int(names[0]) < 0:
            raise UserError(
                f"{next(where for label, where in places.items() if int(label) < 0)}: the label "
                f"{names[0]} is out of range; labels count from 0, "
                "and images without a label cannot be used"
            )
        if [int(name) for name in names] != list(range(len(names))):
            notes.append(
                f"{source}: the labels are not 0 to {len(names) - 1}; they are renumbered in "
                f"order, and remain the class names ({first_few(names)})"
            )
    index_of = {name: index for index, name in enumerate(names)}
    return tuple(names), [index_of[label] for label in labels], notes


def _labels(
    path: str, rows: Sequence[_Row], classes: Sequence[str] | None, other_names: Namings
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the class names, the label of every row, and notes."""
    found = {row.label for row in rows}
    if len(found) > 1 and all(label.lower() in SPLIT_ALIASES for label in found):
        raise UserError(
            f"{path} has splits in the column label ({first_few(sorted(found))}): swap the "
            "column names"
        )
    labels = [row.label for row in rows]
    return number_labels(
        path, labels, lambda index: f"{path}, line {rows[index].line}", classes, other_names
    )


def _index_of(
    source: str, places: Mapping[str, str], classes: Sequence[str], other_names: Namings
) -> dict[str, int]:
    """Return the index of each label among given classes, by its name, another name or its number.

    Args:
        source: The list or the folder of shards, for messages.
        places: Where each label stands first, in the order of the images.
        classes, other_names: As for ``number_labels``.

    Raises:
        UserError: A label is neither, or the labels are numbers and names at once.
    """
    by_name = {name: index for index, name in enumerate(classes)}
    by_number = {str(index): index for index in range(len(classes))}
    if places.keys() <= by_name.keys():
        return by_name
    for what, names in other_names.items():
        by_other = {name: index for index, name in enumerate(names)}
        if what != NUMBERS and places.keys() <= by_other.keys():
            return by_other
    # With the classes 1, 2 and 3, the label 1 could be the first or the second.
    value_of = {int(name): name for name in classes if _WHOLE_NUMBER.fullmatch(name)}
    for label, where in places.items():
        index = by_number.get(label, by_name.get(label))
        if index is None:
            raise UserError(
                f"{where}: the label {label!r} is out of range; it must be one of "
                f"{first_few(list(classes), 5)} or a number from 0 to {len(classes) - 1}"
            )
        named = value_of.get(int(label), classes[index]) if label in by_number else classes[index]
        if named != classes[index]:
            raise UserError(
                f"{where}: the label {label!r} could be the class {named!r}, or by its "
                f"number from 0 the class {classes[index]!r}; write the names of classes"
            )
    if named_only := sorted(places.keys() - by_number.keys()):
        number = next(label for label in places if label not in by_name)
        raise UserError(
            f"{source}: the label {named_only[0]!r} is the name of a class, and {number!r} the "
            "number of one; write the names of all"
        )
    return by_number


def _similar_labels(path: str, labels: set[str]) -> list[str]:
    """Return a note if labels differ only in case, zeros, spaces or the composition of accents."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
        groups[str(int(text)) if _WHOLE_NUMBER.fullmatch(text) else text].append(label)
    similar = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not similar:
        return []
    return [f"{path}: similar labels are different classes ({first_few(similar)})"]


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
