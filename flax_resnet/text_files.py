"""Text files as the programs of other people write them, and the JSON files of a run."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .errors import UserError
from .storage import read_bytes

_Held = TypeVar("_Held")

# The longer marks first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(content: bytes) -> str:
    """Return the text of a file in UTF-8, or in the encoding that its byte-order mark names.

    The mark is no part of the text. Line breaks stay as they are.

    Raises:
        ValueError: The bytes are in another encoding; the message says so as a predicate.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        expected = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise ValueError(f"is not text in {expected} ({error.reason}): save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(
            "holds NUL characters, as UTF-16 without a byte-order mark does: save it as UTF-8"
        )
    return text


def parse_json(text: str | bytes) -> Any:
    """Return the value of JSON that others wrote.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def read_if_present(path: Path, build: Callable[[Any], _Held], remedy: str) -> _Held | None:
    """Return what a JSON file holds, or None if there is no such file.

    Args:
        path: The file.
        build: Function that turns the value of the JSON into the result; its errors of other
            values than it expects show that the file is damaged.
        remedy: What to do then, such as ``"delete it"``.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        return build(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}.") from error


def read_run_file(folder: Path, name: str) -> Any:
    """Return the value of a JSON file of a run's folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = folder / name
    try:
        return parse_json(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is not a run's folder: it has no {name}. Give the --workdir of a "
            "training run."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy the run's folder again.") from error
