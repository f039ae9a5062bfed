"""Names of classes in the files that other tools write."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..storage import locate, read_bytes
from ..text_files import decode_text

# Keys of an object that hold the names: of transformers, Ultralytics and others.
_KEYS = ("id2label", "label2id", "class_to_idx", "idx_to_class", "names", "classes", "labels")
_LITERAL = re.compile(r"""\s*([\[{]\s*$|\[\s*['"\]]|\{\s*['"\d}])""", re.MULTILINE)
_WNID = re.compile(r"n\d{8}")
# Lines with numbers before or after names; all lines of a file have the same separator.
_SEPARATORS = (r"\s*:\s*", r"\s*,\s*", r"\s*;\s*", r"\s*\t\s*")
_NUMBER_FIRST = [
    rf"(?P<number>\d+){between}(?P<name>.*\S)" for between in (*_SEPARATORS, r"[.)]\s+", r"\s+")
]
_NUMBER_LAST = [rf"(?P<name>.*\S){between}(?P<number>\d+)" for between in _SEPARATORS]
# Where numbers could be, more generally than those two.
_NUMBERED = {
    "before": re.compile(r"(?P<number>\d+)(?P<between>[\s:,;.)]+).*\S"),
    "after": re.compile(r".*\S(?P<between>[\s:,;]+)(?P<number>\d+)"),
}
_HEADINGS = frozenset({"name", "names", "label", "labels", "class", "classes", "category"})
_FORMS = 'as in {"0": "daisy", "1": "rose"}, ["daisy", "rose"], or a text file with one name a line'


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read names of classes, in the order of the logits.

    Args:
        path: One of these, in UTF-8 or with a byte-order mark:

            - JSON or a Python literal: a list of names, ``{"0": "daisy", ...}``, the reverse
              ``{"daisy": 0, ...}``, Keras' ``{"0": ["n01440764", "tench"], ...}``, or an object
              with such a value, as the ``config.json`` of transformers;
            - YAML, such as Ultralytics' ``data.yaml`` with ``names``;
            - text with one name a line; or with numbers before (``0 daisy``, ``0: daisy``,
              ``0,daisy``) or after the names (``daisy,0``); a heading is skipped where all other
              lines have numbers.

    Raises:
        UserError: The file cannot be read, its numbers do not count from 0, or it could be read
            in two ways.
    """
    try:
        text = decode_text(read_bytes(locate(path)))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be read ({reason}): name a .json or .txt file.") from error
    except ValueError as error:
        raise UserError(f"{path} {error}.") from error
    suffix = Path(path).suffix.lower()
    try:
        names = _parsed(text, suffix)
    except ValueError as error:
        raise UserError(f"{path} does not hold classes: {error}.") from error
    if not names:
        raise UserError(f"{path} does not hold classes: it is empty; write them {_FORMS}.")
    return names


def _parsed(text: str, suffix: str) -> tuple[str, ...]:
    """Return the names in a text.

    Raises:
        ValueError: There are none, or they could be read in two ways; as a sentence.
    """
    if suffix == ".json" or _LITERAL.match(text):
        return _of_value(_literal(text))
    if suffix in (".yaml", ".yml"):
        try:
            return _of_value(yaml.load(text, yaml.BaseLoader))  # leaves "no" and "010" as they are
        except yaml.YAMLError as error:
            raise ValueError(f"it is not YAML ({' '.join(str(error).split())})") from error
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    return _of_lines(lines, is_table=suffix in (".csv", ".tsv"))


def _literal(text: str) -> Any:
    """Return the value of JSON, or of a Python literal such as ``{0: 'tench'}``."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"it is not JSON ({error}); write it {_FORMS}") from error
    except RecursionError as error:
        raise ValueError("it is not JSON (too deep)") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        double = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"the key {double!r} is there twice")
    return value


def _of_value(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(map(_name, value))
    if not isinstance(value, Mapping):
        raise ValueError(f"it is {str(value)[:40]!r}; write them {_FORMS}")
    held = [key for key in _KEYS if isinstance(value.get(key), Mapping | list)]
    if held:
        readings = {key: _of_value(value[key]) for key in held}
        if len(set(readings.values())) > 1:
            raise ValueError(f"{' and '.join(held)} in it differ; leave one of them out")
        return readings[held[0]]
    by_key = _in_order((_index(key), names) for key, names in value.items())
    by_value = _in_order((_index(index), key) for key, index in value.items())
    if by_key is None and by_value is None:
        if any(_index(key) is not None for key in value) or any(map(_is_index, value.values())):
            raise ValueError(f"it must number its {len(value)} classes from 0, each once")
        raise ValueError(f"it has no numbers; write them {_FORMS}")
    if by_key is None or by_value is None:
        return tuple(map(_name, by_key or by_value or ()))
    if tuple(map(_name, by_key)) != tuple(map(_name, by_value)):
        raise ValueError(
            f"the class 0 could be {_name(by_key[0])!r}, if its keys are the numbers, or "
            f"{_name(by_value[0])!r}, if its values are; write a list of names"
        )
    return tuple(map(_name, by_key))


def _index(value: Any) -> int | None:
    """Return the number that a key or a value is, also as text; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"0|[1-9]\d{0,8}", value.strip()):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_index(value: Any) -> bool:
    return _index(value) is not None


def _in_order(numbered: Any) -> list[Any] | None:
    """Return the values of ``(number, value)`` by number; None unless these are 0 to N - 1."""
    pairs = list(numbered)
    by_number = {number: value for number, value in pairs if number is not None}
    if len(by_number) < len(pairs) or sorted(by_number) != list(range(len(pairs))):
        return None
    return [by_number[number] for number in range(len(pairs))]


def _name(value: Any) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, str) for v in value)
    ):
        if _WNID.fullmatch(value[0]):  # Keras: [wnid, name]
            return value[1]
        raise ValueError(f"a class could be {value[0]!r} or {value[1]!r}; write one name for each")
    raise ValueError(f"{str(value)[:60]} is not a name")


def _of_lines(lines: Sequence[str], *, is_table: bool) -> tuple[str, ...]:
    """Return the names in the lines of a text that are not blank."""
    if any(re.match(r"item\s*\{", line) for line in lines):
        raise ValueError("it is a label map of TensorFlow, whose numbers begin with 1")
    if lines and all(line.endswith((",", ";")) for line in lines[:-1]) and len(lines) > 1:
        lines = [line.rstrip(",;").rstrip() for line in lines]
    lines = [line[1:-1] if re.fullmatch(r'"[^"]*"|\'[^\']*\'', line) else line for line in lines]
    if lines and all(_WNID.match(line) for line in lines):
        split = [re.split(r"[\s,:]+", line, maxsplit=1) for line in lines]
        if all(len(parts) == 2 for parts in split):  # synset_words.txt
            return tuple(name for _, name in split)
    found = _numbered(lines) or _numbered(lines[1:])  # without a heading, or with one
    if len(set(found)) > 1:
        raise ValueError(
            f"the class 0 could be {found[0][0]!r} or {found[1][0]!r}; write one name a line"
        )
    if not found:
        _check_plain(lines, is_table)
        return tuple(lines)
    if len(found[0]) < len(lines) and not re.search(r"[,;\t]", lines[0]):
        raise ValueError(
            f"its first line, {lines[0]!r}, could be a heading or a class; write names only"
        )
    return found[0]


def _numbered(lines: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the readings of lines that all have a number, 0 to N - 1, before or after the name."""
    readings = []
    for patterns in (_NUMBER_FIRST, _NUMBER_LAST):
        for pattern in patterns:
            matches = [match for line in lines if (match := re.fullmatch(pattern, line))]
            if not matches or len(matches) < len(lines):
                continue
            ordered = _in_order((int(match["number"]), match["name"]) for match in matches)
            if ordered is not None:
                readings.append(tuple(map(_unquoted, ordered)))
            break  # "0: a" is not the number 0 with the name ": a"
    return readings


def _unquoted(name: str) -> str:
    name = name.strip().rstrip(",;").rstrip()
    return name[1:-1] if re.fullmatch(r'"[^"]*"|\'[^\']*\'', name) else name


def _check_plain(lines: Sequence[str], is_table: bool) -> None:
    """Check that lines can only be one name each.

    Raises:
        ValueError: They could be something else.
    """
    if len(lines) == 1 and re.search(r"[,;\t]", lines[0]):
        raise ValueError("its only line could be one name or several; write one name a line")
    for side, pattern in _NUMBERED.items():
        matches = [match for line in lines if (match := pattern.fullmatch(line))]
        if len(lines) < 2 or len(matches) < len(lines):
            continue
        numbers = sorted(int(match["number"]) for match in matches)
        # Names such as "Audi A4 2012" are names; "class 1", "class 2" could be either.
        counted = [number - numbers[0] for number in numbers] == list(range(len(lines)))
        if counted or all(re.search(r"[,;\t]", match["between"]) for match in matches):
            raise ValueError(
                f"the numbers {side} its names could count the classes, though not from 0 and each "
                f"once, or belong to the names, as in {lines[0]!r}; write names only, or a JSON "
                "list"
            )
    if is_table and lines and lines[0].lower().strip('"') in _HEADINGS:
        raise ValueError(
            f"its first line, {lines[0]!r}, could be a heading or a class; write names only"
        )
    if is_table and len(lines) > 1:
        counts = {len(re.findall(r"[,;\t]", line)) for line in lines}
        if counts != {0}:
            raise ValueError(
                "it has several columns, of which one could be the names; write names only"
            )
