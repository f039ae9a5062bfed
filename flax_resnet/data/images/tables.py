"""Tables in files: CSV in the dialects that programs write, and JSONL."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_resnet.errors import UserError
from flax_resnet.text_files import decode_text

TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Attributes:
        path: The file.
        columns: Names of the columns as written, without spaces around them.
        lines: Line number of each row, from 1.
        rows: Values of each row, in the order of the columns; "" where there is none.
    """

    path: str
    columns: tuple[str, ...]
    lines: tuple[int, ...]
    rows: Sequence[Sequence[Any]]

    def column(self, name: str) -> list[str]:
        """Return the values of a column as text: strings as written, and whole numbers.

        Raises:
            UserError: A value is of another type.
        """
        index = self.columns.index(name)
        return [
            self._text(line, name, row[index])
            for line, row in zip(self.lines, self.rows, strict=True)
        ]

    def _text(self, line: int, name: str, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UserError(
                f"{self.path}, line {line}: {name} is {str(value)[:40]}; it must be a string, or, "
                "for a label, a whole number"
            )
        return str(value)


def read_table(path: str) -> Table:
    """Read a ``.csv``, ``.tsv`` or ``.jsonl`` file.

    The first line of CSV names the columns. Values are separated by the character that this line
    has most of, and one that holds the separator is in double quotes. Each line of JSONL is an
    object.

    Raises:
        UserError: The file cannot be read or parsed.
    """
    try:
        text = decode_text(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise UserError(f"{path} {error}") from error
    return (_read_jsonl if path.lower().endswith(".jsonl") else _read_csv)(path, text)


def _read_csv(path: str, text: str) -> Table:
    file = io.StringIO(text, newline="")
    heading = file.readline()
    skipped = 0
    if hint := re.fullmatch(r'"?sep=(.)"?\s*', heading):  # Excel reads and writes such a line
        delimiter, skipped = hint[1], 1
        heading = file.readline()
    else:
        delimiter = _delimiter(path, heading)
    text = text[file.tell() - len(heading) :]
    # Spaces before quotes are none of the value; other spaces may begin the name of a file.
    spaced = re.search(re.escape(delimiter) + ' +"', text) is not None
    body = io.StringIO(text, newline="")
    reader = csv.reader(body, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    try:
        columns = [name.strip() for name in next(reader, [])]
        named = [name.lower() for name in columns if name]
        if not named or len(set(named)) < len(named):
            raise UserError(unclear_columns(path, heading))
        lines, rows = [], []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            line = reader.line_num + skipped
            if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
                raise UserError(
                    f"{path}, line {line}: {len(cells)} values for {len(columns)} columns; put "
                    "values that hold the separator into double quotes"
                )
            lines.append(line)
            rows.append(cells[: len(columns)])
    except csv.Error as error:
        line = reader.line_num + skipped
        raise UserError(f"{path}, line {line}: not CSV ({error}); correct it") from error
    return Table(path, tuple(columns), tuple(lines), rows)


def unclear_columns(path: str, heading: str) -> str:
    """Return the sentence about a first line that does not name columns."""
    return (
        f"{path}, line 1: it must name the columns, as in path,label or path,label,split; it is "
        f"{heading.strip()[:80]!r}"
    )


def _delimiter(path: str, heading: str) -> str:
    counts = {character: heading.count(character) for character in _DELIMITERS}
    most = max(counts.values())
    best = [character for character in counts if counts[character] == most]
    if most and len(best) > 1:
        raise UserError(
            f"{path}, line 1: the columns could be separated by {_DELIMITERS[best[0]]} or by "
            f"{_DELIMITERS[best[1]]}; put names that hold the separator into double quotes, or "
            "begin the file with a line such as sep=;"
        )
    return best[0]


def _read_jsonl(path: str, text: str) -> Table:
    found = list(_objects(path, text))
    columns = tuple(dict.fromkeys(key for _, value in found for key in value))
    rows = [[value.get(key) for key in columns] for _, value in found]
    return Table(path, columns, tuple(line for line, _ in found), rows)


def _objects(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {line}: not JSON ({error}); correct it") from error
        if not isinstance(value, dict):
            raise UserError(
                f'{path}, line {line}: not of the form {{"path": "a.jpg", "label": "cat"}}, '
                'optionally with "split"; correct it'
            )
        yield line, value
