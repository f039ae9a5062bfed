"""Output files, each written whole or not at all."""

import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from .errors import UserError
from .storage import is_remote, locate, upload


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, whose file becomes ``path`` where the body succeeds.

    It is in the same folder, which is made, and has the same suffix; for a path in object storage
    it is a local file. Links are followed; pipes and devices such as ``/dev/stdout`` are written
    directly.

    Raises:
        UserError: The file cannot be written; the former one is then as it was.
    """
    named = locate(path)
    if is_remote(named):
        with tempfile.TemporaryDirectory(prefix="flax_resnet-") as scratch:
            local = Path(scratch) / named.name
            yield local
            upload(local, named)
        return
    try:
        target = _checked(named)
    except (OSError, ValueError) as error:  # ValueError: the name holds NUL
        raise _not_written(named, error) from error
    if target is None:
        yield named
        return
    # A name of the full length still fits, and two processes do not share the file.
    suffix = target.suffix if len(target.suffix) < 16 else ""
    stem = target.stem[:32].replace(".", "-")
    fresh = target.with_name(f".part-{os.getpid()}-{stem}{suffix}")
    try:
        yield fresh
        if target.exists():
            fresh.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(fresh, target)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename not in (None, str(fresh)):
            raise  # of a file that the body reads
        raise _not_written(named, error) from error
    finally:
        with suppress(OSError):  # of a failing disk: the error of the writing says more
            fresh.unlink(missing_ok=True)


@contextmanager
def open_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Open a file for text in UTF-8, as ``replacing`` does; line breaks are written as given.

    Raises:
        UserError: The file cannot be written; the former one is then as it was.
    """
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write a value as JSON, by default indented; see ``to_json``.

    Raises:
        UserError: The file cannot be written; the former one is then as it was.
    """
    with open_text(path) as file:
        file.write(to_json(value, indent=indent) + "\n")


def to_json(value: Any, **options: Any) -> str:
    """Return a value as JSON, which has neither NaN nor infinity: such a number becomes ``null``.

    Args:
        value: Mappings with keys of text, lists, tuples, text, numbers, booleans and None.
        **options: Those of ``json.dumps``.
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def _checked(named: Path) -> Path | None:
    """Return the file that a path leads to, or None for a pipe or a device; make its folder."""
    if named.exists() and not named.is_file() and not named.is_dir():
        return None
    target = Path(os.path.realpath(named))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise OSError("it is a folder")
    # A file that its owner protects could be replaced without a permission to write to it.
    if target.exists() and not os.access(target, os.W_OK):
        raise OSError("its permissions forbid it")
    return target


def _not_written(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"{path} cannot be written ({reason}): name another path, or make this one writable."
    )
