"""Objects of a store: list, read, write, move and delete them; some of it for local files too."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import UserError
from .addresses import is_remote
from .refusals import explained


def list_files(folder: Path) -> dict[str, Mapping[str, Any]]:
    """List the objects below a folder in object storage, a thousand for each request.

    Returns:
        What fsspec knows of each, ``size`` among it, by its name below the folder.

    Raises:
        UserError: The folder cannot be read, or a name leads out of it.
    """
    fs, root = folder.fs, folder.path  # type: ignore[attr-defined]
    with explained(folder, "read"):
        objects = fs.find(root, detail=True)
    found = {
        name[len(root) :].lstrip("/"): info
        for name, info in sorted(objects.items())
        if info["type"] == "file" and not name.endswith("/")
    }
    for name in found:
        # A name of an object is any text, and these copies would be written outside their folder.
        if ".." in name.split("/") or "\\" in name or PureWindowsPath(name).drive:
            raise UserError(
                f"{folder} holds an object called {name!r}, which is no name of a file."
            )
    return found


def folders_in(folder: Path) -> dict[str, tuple[float, int]]:
    """Return the time of change and the bytes of each folder in a folder, by its name.

    The time is in seconds since 1970; in object storage it is that of the newest object below.
    """
    if not is_remote(folder):
        return {
            path.name: (
                path.stat().st_mtime,
                sum(one.stat().st_size for one in path.rglob("*") if one.is_file()),
            )
            for path in folder.iterdir()
            if path.is_dir()
        }
    found: dict[str, tuple[float, int]] = {}
    for name, info in list_files(folder).items():
        first, slash, _ = name.partition("/")
        if slash:
            when, size = found.get(first, (0.0, 0))
            found[first] = max(when, time_of(info)), size + info["size"]
    return found


def upload(source: Path, target: Path) -> None:
    """Copy a local file to a path in object storage, where it appears whole or not at all.

    Raises:
        UserError: It cannot be written; what was there is as it was.
    """
    with explained(target, "written"):
        target.fs.put_file(str(source), target.path)  # type: ignore[attr-defined]


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, local or in object storage.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: A local file cannot be read.
        StorageError: A store cannot be read.
    """
    if not is_remote(path):
        return path.read_bytes()
    with explained(path, "read"):
        try:
            content: bytes = path.fs.cat_file(path.path)  # type: ignore[attr-defined]
            return content
        except FileNotFoundError as error:
            missing = error
    raise missing


def write_bytes(path: Path, content: bytes) -> None:
    """Write an object, which appears whole or not at all.

    Raises:
        UserError: It cannot be written; what was there is as it was.
    """
    with explained(path, "written"):
        path.fs.pipe_file(path.path, content)  # type: ignore[attr-defined]


def delete(path: Path) -> None:
    """Delete a file or a folder, if it is there.

    Raises:
        OSError: A local one cannot be deleted.
        StorageError: One in object storage cannot be deleted.
    """
    if not is_remote(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    fs, name = path.fs, path.path  # type: ignore[attr-defined]
    with explained(path, "deleted"), suppress(FileNotFoundError):
        fs.rm(name, recursive=True)


def move_folder(source: Path, target: Path, last: str) -> None:
    """Move a folder in object storage, which copies each object and deletes it.

    Args:
        source: The folder.
        target: Its new name; what is there is deleted first.
        last: The file by which a folder is complete: a call that is interrupted leaves ``source``
            complete, or ``target``.

    Raises:
        StorageError: It cannot be moved.
    """
    delete(target)
    fs = source.fs  # type: ignore[attr-defined]
    names = sorted(list_files(source), key=lambda name: name == last)
    old, new = (path.path for path in (source, target))  # type: ignore[attr-defined]
    with explained(source, "moved"):
        for name in names:
            fs.cp_file(f"{old}/{name}", f"{new}/{name}")
        for name in reversed(names):
            fs.rm_file(f"{old}/{name}")


def time_of(info: Mapping[str, Any]) -> float:
    """Return when an object was written, in seconds since 1970, by the clock of the store."""
    when = info.get("LastModified") or info.get("mtime") or info.get("updated")
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when or 0.0)
