"""The labels of images in shards: which value of a sample is its label, and the class names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_resnet.data.images.columns import LABEL_NAMES, column_key
from flax_resnet.data.images.listing import number_labels
from flax_resnet.data.images.matching import Namings
from flax_resnet.data.images.members import Member
from flax_resnet.data.images.records import first_few
from flax_resnet.errors import UserError
from flax_resnet.text_files import parse_json

CLASSES_FILE = "classes.json"
"""The class names in the order of the labels, a list of strings, beside shards whose labels are
numbers."""
# Of these the values are the names of classes, next to numbers that are the labels.
_NAMES = frozenset({"labelname", "classname", "categoryname"})
_WHOLE_NUMBER = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True)
class Samples:
    """The images of shards with what may be their labels.

    Attributes:
        root: Where they come from, for messages.
        members: The images.
        fields: Values of each image by name, None where it has none.
        class_names: Class names of fields that are declared to be class labels.
    """

    root: str
    members: Sequence[Member]
    fields: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, Sequence[str]]


def label_samples(
    samples: Samples,
    given: str | None,
    names_file: Path,
    classes: Sequence[str] | None,
    other_names: Namings,
) -> tuple[tuple[str, ...], list[int | None], list[str]]:
    """Choose the labels of images and number them.

    Several values of an image that could be its label must agree. Class names are those that the
    Parquet file declares, those of ``classes.json``, or the values of ``label_name``,
    ``class_name`` or ``category_name`` where each belongs to one number; else numbers are the names
    themselves.

    Args:
        samples: The images.
        given: Name of the value that is the label; by default it is recognized.
        names_file: Path of ``classes.json``.
        classes: Class names that the labels must be of, as for ``number_labels``.
        other_names: Other names of these.

    Returns:
        The class names, the label of each image, None where it has none, and notes for the user.

    Raises:
        UserError: There are no labels, or they could mean two things.
    """
    labels, names = _choose(samples, given)
    stored = _read_names(names_file)
    if names is not None and stored is not None and tuple(names) != stored:
        raise UserError(
            f"{names_file} has the classes {first_few(stored)}, and the shards declare "
            f"{first_few(list(names))}: remove the file, or correct it"
        )
    known = [row for row, label in enumerate(labels) if label is not None]
    beside = _names_beside(samples, labels)
    names = names or stored
    if names is None and sorted(beside) == list(range(len(beside))):
        names = [beside[number] for number in range(len(beside))] or None
    if names is None:
        texts = [
            beside.get(label, str(label)) if isinstance(label, int) else str(label)
            for label in (labels[row] for row in known)
        ]
    else:
        numbers = _numbers(samples, labels, known, list(names))
        if classes is None or tuple(classes) == tuple(names):
            chosen: list[int | None] = [None] * len(labels)
            for row, number in zip(known, numbers, strict=True):
                chosen[row] = number
            return tuple(names), chosen, []
        texts = [names[number] for number in numbers]
        if twice := {text for text in texts if list(names).count(text) > 1}:
            raise UserError(
                f"{samples.root}: {first_few(sorted(twice))} is the name of two classes, so that "
                "they cannot be matched to those of the model"
            )
    if not texts:
        return tuple(classes or ()), [None] * len(labels), []
    found, numbers, notes = number_labels(
        samples.root, texts, lambda index: samples.members[known[index]], classes, other_names
    )
    result: list[int | None] = [None] * len(labels)
    for row, number in zip(known, numbers, strict=True):
        result[row] = number
    return found, result, notes


def _choose(
    samples: Samples, given: str | None
) -> tuple[list[str | int | None], Sequence[str] | None]:
    """Return the label of each image, a number or text, and the class names that are declared."""
    fields = samples.fields
    if given is not None:
        names = [name for name in (given, f"json.{given}") if name in fields]
        if not names:
            raise UserError(
                f"{samples.root} has no {given} in its samples, only "
                f"{', '.join(fields) or 'images'}",
                exit_code=2,
            )
        return _clean(samples, names[0]), samples.class_names.get(names[0])
    declared = [name for name in fields if name in samples.class_names]
    if len(declared) > 1:
        raise _unclear(samples, declared)
    if declared:
        return _clean(samples, declared[0]), samples.class_names[declared[0]]
    candidates = [
        name
        for name in fields
        if (key := _key(name)) in LABEL_NAMES | {"cls"} and key not in _NAMES
    ]
    exact = [name for name in candidates if _key(name) in ("cls", "label")]
    names = exact or candidates or [name for name in fields if _key(name) in _NAMES]
    if not names:
        raise UserError(
            f"{samples.root} has no labels: a sample's label is in its member cls, or in its json "
            "as label; if these are tar files of class folders, unpack them and name the folder"
        )
    chosen = _clean(samples, names[0])
    for other in names[1:]:
        theirs = _clean(samples, other)
        for row, (one, two) in enumerate(zip(chosen, theirs, strict=True)):
            if one is None:
                chosen[row] = two
            elif two is not None and str(one) != str(two):
                raise UserError(
                    f"{samples.members[row]}: its label is {one!r} by {names[0]} and {two!r} by "
                    f"{other}; {_advice(samples, names[0])}"
                )
    _refuse_mixed(samples, names[0], chosen)
    return chosen, None


def _key(name: str) -> str:
    return column_key(name.removeprefix("json."))


def _clean(samples: Samples, name: str) -> list[str | int | None]:
    """Return the values of a field, text of whole numbers as numbers, and -1 and "" as None.

    Raises:
        UserError: A value is neither text nor a whole number.
    """
    values: list[str | int | None] = []
    for row, value in enumerate(samples.fields[name]):
        if isinstance(value, bool | float) or not isinstance(value, str | int | None):
            raise UserError(
                f"{samples.members[row]}: its {name} is {str(value)[:40]}; a label is text or a "
                "whole number"
            )
        if isinstance(value, str):
            value = value.strip()
            if name == "cls" and _WHOLE_NUMBER.fullmatch(value):
                value = int(value)
        values.append(None if value in ("", -1) else value)
    return values


def _refuse_mixed(samples: Samples, name: str, labels: Sequence[str | int | None]) -> None:
    first = {type(label): row for row, label in reversed(list(enumerate(labels)))}
    if {int, str} <= first.keys():
        number, text = first[int], first[str]
        raise UserError(
            f"{samples.members[number]} has the label {labels[number]}, a number, and "
            f"{samples.members[text]} has {labels[text]!r}, which is text: write all as one of them"
        )


def _numbers(
    samples: Samples, labels: Sequence[str | int | None], known: Sequence[int], names: list[str]
) -> list[int]:
    """Return the number of each label among class names that are known."""
    by_name = {name: number for number, name in enumerate(names)}
    numbers = []
    for row in known:
        label = labels[row]
        number = label if isinstance(label, int) else by_name.get(str(label), -1)
        if not 0 <= number < len(names):
            raise UserError(
                f"{samples.members[row]}: its label {label!r} is out of range for the "
                f"{len(names)} classes ({first_few(names)})"
            )
        numbers.append(number)
    return numbers


def _names_beside(samples: Samples, labels: Sequence[str | int | None]) -> dict[int, str]:
    """Return the name of each number from a field of names next to the labels; empty if there is
    none, or the labels are text."""
    if not all(isinstance(label, int | None) for label in labels):
        return {}
    for field in samples.fields:
        if _key(field) not in _NAMES:
            continue
        found: dict[int, tuple[str, int]] = {}
        used: dict[str, tuple[int, int]] = {}
        for row, label in enumerate(labels):
            name = samples.fields[field][row]
            if not isinstance(label, int) or not isinstance(name, str):
                continue
            known, first = found.setdefault(label, (name, row))
            number, other = used.setdefault(name, (label, row))
            if known != name or number != label:
                raise UserError(
                    f"{samples.members[row]} has the label {label} and the {field} {name!r}, and "
                    f"{samples.members[first if known != name else other]} has "
                    f"{label if known != name else number} and "
                    f"{known if known != name else name!r}: correct one of them"
                )
        lacking = {label for label in labels if isinstance(label, int)} - found.keys()
        if found and not lacking:
            return {label: name for label, (name, _) in found.items()}
    return {}


def _read_names(path: Path) -> tuple[str, ...] | None:
    try:
        names = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): correct it") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} is no list of class names: write a JSON list of strings")
    return tuple(names)


def _unclear(samples: Samples, names: Sequence[str]) -> UserError:
    return UserError(
        f"{samples.root}: the labels could be in {' or '.join(names)}; {_advice(samples, names[0])}"
    )


def _advice(samples: Samples, name: str) -> str:
    image = samples.members[0].shard.column or "jpg"
    return f"name one, as in --data.columns {image},{name} (--columns of check and evaluate)"
