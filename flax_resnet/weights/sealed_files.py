"""The files that describe a run, and ``checksums.json``, by which a damaged one is noticed.

``checksums.json`` holds the BLAKE2b digests that each file may have: one, or two while a file is
being replaced, so that a process can be killed between any two of its steps::

    {"files": {"config.json": ["9f86..."], "classes.json": ["5d1c..."]}, "checksum": "2c26..."}
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..output_files import open_text, to_json, write_json
from ..storage import read_bytes

CHECKSUMS = "checksums.json"


def write_sealed(folder: Path, values: Mapping[str, Any]) -> None:
    """Write values as JSON files, and their digests; files that are the same stay untouched.

    Args:
        folder: The run's folder.
        values: The value of each file, by the file's name.

    Raises:
        UserError: A file cannot be written.
    """
    texts = {name: to_json(value, indent=2) + "\n" for name, value in values.items()}
    wanted = {name: [_digest(text.encode())] for name, text in texts.items()}
    present = {name: _digest_of(folder / name) for name in texts}
    try:
        before = _read_checksums(folder)
    except UserError:
        before = {}
    changed = [name for name in texts if present[name] not in wanted[name]]
    if before == wanted and not changed:
        return
    former = {name: [present[name]] for name in changed if present[name] in before.get(name, [])}
    _write_checksums(folder, {name: wanted[name] + former.get(name, []) for name in wanted})
    for name in changed:
        with open_text(folder / name) as file:
            file.write(texts[name])
    _write_checksums(folder, wanted)


def check_sealed(folder: Path, names: Iterable[str] | None = None) -> None:
    """Check that files are as the run wrote them.

    A folder without ``checksums.json``, as earlier versions wrote it, is accepted.

    Args:
        folder: The run's folder.
        names: Names of the files; by default all that have a checksum. A missing file is no error.

    Raises:
        UserError: A file is damaged.
    """
    known = _read_checksums(folder)
    for name in known if names is None else names:
        path = folder / name
        if known and path.exists() and _digest_of(path) not in known.get(name, []):
            raise UserError(
                f"{path} is not as the run wrote it (its checksum differs): copy it from another "
                f"copy of the run; if you changed it on purpose, delete {folder / CHECKSUMS}."
            )


def sealed_names(folder: Path) -> list[str]:
    """Return the names of the files that have a checksum.

    Raises:
        UserError: ``checksums.json`` is damaged.
    """
    return list(_read_checksums(folder))


def _read_checksums(folder: Path) -> dict[str, list[str]]:
    path = folder / CHECKSUMS
    try:
        value = json.loads(read_bytes(path))
        files: dict[str, list[str]] = value["files"]
        if value["checksum"] != _digest(to_json(files).encode()):
            raise ValueError("its own checksum differs")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error}): copy it from another copy of the run, or delete it if "
            "the files next to it are known to be right."
        ) from error
    return files


def _write_checksums(folder: Path, files: Mapping[str, list[str]]) -> None:
    value = {"files": files, "checksum": _digest(to_json(files).encode())}
    write_json(folder / CHECKSUMS, value)


def _digest_of(path: Path) -> str:
    """Return the digest of a file; an empty text if it cannot be read."""
    try:
        return _digest(read_bytes(path))
    except OSError:
        return ""


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
