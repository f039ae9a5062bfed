"""Local copies of what is in object storage, for libraries that read and write local files."""

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError
from ..paths import cache_folder, process_folder, writable_folder
from ..process_lock import one_process
from .addresses import is_remote, locate
from .objects import delete, list_files, time_of, upload
from .refusals import explained

_AT_ONCE = 256  # objects that are read at the same time
# The time between two writes of the index, which has a line for each file: written after every 256
# of a million objects, it would be most of what is written.
_INDEX_SECONDS = 30.0
_LISTS = (".csv", ".tsv", ".jsonl")


def mirror(folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """Copy a folder in object storage into the cache, where only what has changed is read again.

    Args:
        folder: A folder; a local one is returned as it is.
        wanted: Whether a file is copied, by its name below the folder.

    Returns:
        A local folder with the same files, which only this function writes.

    Raises:
        UserError: The folder cannot be read.
    """
    if not is_remote(folder):
        return folder
    with explained(folder, "read"):
        present = list_files(folder)
        if not present and not folder.exists():
            raise UserError(f"{folder} does not exist: there is no object under that name.")
        found = {name: info for name, info in present.items() if wanted(name)}
    return _cached(folder, found, present)


@contextmanager
def edited(folder: Path, below: str, wanted: Callable[[str], bool]) -> Iterator[Path]:
    """Give a local copy of a folder whose files in ``below`` replace the former ones at the end.

    Args:
        folder: A folder; a local one is given as it is.
        below: Name of the folder in it that the body writes.
        wanted: Whether a file is copied, by its name below the folder.

    Raises:
        StorageError: The folder cannot be read or written.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="flax_resnet-") as scratch:
        local = Path(scratch) / folder.name
        with explained(folder, "read"):
            found = {name: info for name, info in list_files(folder).items() if wanted(name)}
            _refresh(folder, local, found, None)
        yield local
        written = {
            str(PurePosixPath(path.relative_to(local)))
            for path in (local / below).rglob("*")
            if path.is_file()
        }
        for name in sorted(written):
            upload(local / name, folder / name)
        for name in found:
            if name.startswith(below + "/") and name not in written:
                delete(folder / name)


def local_copy(file: Path, *beside: str) -> Path:
    """Return a local file with the content of ``file``: that file, or its copy in the cache.

    Args:
        file: The file.
        beside: Names of files in its folder that are copied too, where they are there.

    Raises:
        UserError: The file cannot be read.
    """
    if not is_remote(file):
        return file
    found = {}
    for path in (file, *map(file.with_name, beside)):
        with explained(path, "read"), suppress(FileNotFoundError):
            found[path.name] = path.fs.info(path.path)  # type: ignore[attr-defined]
    if found.get(file.name, {}).get("type") != "file":
        raise UserError(f"{file} does not exist: there is no object of that name.")
    folder = _cached(file.parent, found, None)
    for name in set(beside) - set(found):
        (folder / name).unlink(missing_ok=True)
    return folder / file.name


def local_data(path: str | os.PathLike[str]) -> Path:
    """Return a local path with the data at ``path``; those in object storage are copied once.

    Args:
        path: A folder, an ``.npz`` file, a shard, or a list of files beside which the files are.

    Raises:
        UserError: ``path`` cannot be read, or is an address of another kind.
    """
    found = locate(path)
    return _copied_data(str(found)) if is_remote(found) else found


@cache
def _copied_data(address: str) -> Path:
    path = locate(address)
    if path.suffix.lower() == ".npz":
        return local_copy(path)
    if path.suffix and path.is_file():
        if path.suffix.lower() in _LISTS:
            return mirror(path.parent) / path.name
        return local_copy(path, "classes.json")  # a shard, and the names of its classes
    return mirror(path)


def _cached(
    folder: Path, found: Mapping[str, Mapping[str, Any]], present: Mapping[str, Any] | None
) -> Path:
    """Return the copy of a folder in the cache, with the files ``found`` as they are now.

    Args:
        folder: The folder.
        found: What fsspec knows of each file that is wanted, by its name below the folder.
        present: All files that are in the folder; the others are deleted from the copy.
    """
    kept = _cache_of(folder)
    note = f"another process is copying {folder} to this machine; this one waits."
    with explained(folder, "read"), one_process(kept / ".lock", note):
        _refresh(folder, kept / folder.name, found, present)
    return kept / folder.name


def _refresh(
    folder: Path,
    local: Path,
    found: Mapping[str, Mapping[str, Any]],
    present: Mapping[str, Any] | None,
) -> None:
    """Copy the files ``found`` that are not in a local folder yet, or have changed.

    The index beside the folder has the version of each file. After a kill it may lack files, which
    are then copied again, but no file has another version than the index says.
    """
    fs, root = folder.fs, folder.path  # type: ignore[attr-defined]
    index = local.with_name("versions.json")
    try:
        held = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = {}
    if present is not None:
        _delete_others(local, present)
    wanted = {name: _version(info) for name, info in found.items()}
    missing = [
        name for name in wanted if held.get(name) != wanted[name] or not (local / name).is_file()
    ]
    outdated = {*missing, *(() if present is None else held.keys() - present.keys())}
    if not outdated:
        return
    held = {name: version for name, version in held.items() if name not in outdated}
    _write_index(index, held)
    written = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=index.parent) as scratch:
            for start in range(0, len(missing), _AT_ONCE):
                names = missing[start : start + _AT_ONCE]
                parts = [os.path.join(scratch, str(number)) for number in range(len(names))]
                fs.get([f"{root}/{name}" for name in names], parts)
                for name, part in zip(names, parts, strict=True):
                    if os.path.getsize(part) != found[name]["size"]:
                        reason = "Connection closed before the end of the object"
                        raise OSError(errno.EIO, reason, name)
                    (local / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(part, local / name)
                    held[name] = wanted[name]
                if time.monotonic() - written > _INDEX_SECONDS:
                    _write_index(index, held)
                    written = time.monotonic()
    finally:
        _write_index(index, held)


def _delete_others(local: Path, present: Mapping[str, Any]) -> None:
    """Delete the files of a copy that are not in its folder, and the folders that are then empty.

    The index does not name them: it may lack files that were copied before a kill.
    """
    names_of_present = {os.path.normpath(name) for name in present}
    for inner, _, names in os.walk(local, topdown=False):
        for name in names:
            path = os.path.join(inner, name)
            # The index of shards is made beside them, and has a lock and a temporary name.
            is_ours = "flax_resnet.index" in name
            if not is_ours and path[len(str(local)) + 1 :] not in names_of_present:
                Path(path).unlink(missing_ok=True)
        if inner != str(local):
            with suppress(OSError):  # it has files
                os.rmdir(inner)


def _write_index(index: Path, versions: Mapping[str, str]) -> None:
    """Write the index whole or not at all."""
    fresh = index.with_name(f".part-{os.getpid()}-{index.name}")
    fresh.write_text(json.dumps(versions), encoding="utf-8")
    os.replace(fresh, index)


def _version(info: Mapping[str, Any]) -> str:
    """Return what changes whenever an object does."""
    tag = info.get("generation") or info.get("ETag") or info.get("etag") or time_of(info)
    return f"{tag} {info['size']}"


def _cache_of(path: Path) -> Path:
    """Return the folder of the copies of what is below a path, which is made."""
    digest = hashlib.blake2b(str(path).encode(), digest_size=12).hexdigest()
    name = f"{path.name[:40]}-{digest}"
    return writable_folder(cache_folder() / "object_storage" / name) or _process_cache(name)


@cache
def _process_cache(name: str) -> Path:
    folder = process_folder() / name
    folder.mkdir()
    return folder
