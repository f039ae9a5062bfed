"""Paths as people write them, and folders of what is kept between runs."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .errors import UserError

NOTE_SECONDS = 2.0
"""The wait for another process after which a note says so."""


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a local path, a leading ``~`` or ``~user`` replaced by that home (``expand_text``).

    Raises:
        UserError: It is an address, such as ``https://host/name``, and no local path; or there is
            no home. ``storage.locate`` takes those in object storage.
    """
    text = expand_text(path)
    if scheme := scheme_of(text):
        raise UserError(
            f"{text}: {scheme}:// addresses are not supported here: name a local path "
            f"(./{text} where a folder is called {scheme}:).",
            exit_code=2,
        )
    return Path(text)


def scheme_of(text: str) -> str | None:
    """Return the scheme of an address, ``"s3"`` of ``s3://bucket/run``; None for a local path.

    ``pathlib`` writes the same address as ``s3:/bucket/run``, which has it too. A drive of Windows
    is no scheme.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    return found[1].lower() if found else None


def expand_text(path: str | os.PathLike[str]) -> str:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home, and all else as it is.

    As in shells, the name of a user that does not exist stays: a file may be called ``~draft.jpg``.

    Raises:
        UserError: The path begins with ``~``, and this user has no home.
    """
    expanded = os.path.expanduser(os.fspath(path))
    if expanded == "~" or expanded.startswith("~" + os.sep):
        raise UserError(
            f"{path} begins with ~, but the home of this user is not known: set the environment "
            "variable HOME, or write the whole path."
        )
    return expanded


def cache_folder() -> Path:
    """Return the folder of what is kept between runs: ``$FLAX_RESNET_CACHE`` or, where that is not
    set, ``~/.cache/flax_resnet``."""
    return expand(os.environ.get("FLAX_RESNET_CACHE") or "~/.cache/flax_resnet")


def writable_folder(path: str | os.PathLike[str]) -> Path | None:
    """Return a folder, made if there is none; None where no file can be written in it."""
    try:
        folder = expand(path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, UserError):
        return None


@cache
def process_folder() -> Path:
    """Return a folder that is deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="flax_resnet-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def one_process(lock: Path, note: str) -> Iterator[None]:
    """Let one process at a time run the body, while others wait, however long it takes.

    Where the file system has no locks, or the file cannot be written, all of them run it.

    Args:
        lock: The file to lock; a process that is killed frees it.
        note: What is printed on standard error where the wait is not short.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    with suppress(OSError, NotImplementedError):
        try:
            held.acquire(timeout=NOTE_SECONDS)
        except Timeout:
            if _has_locks(lock.parent):
                print(f"note: {note}", file=sys.stderr)
                held.acquire()
    try:
        yield
    finally:
        held.release()


def _has_locks(folder: Path) -> bool:
    """Return whether a file that no other process knows can be locked in a folder.

    Older versions of filelock take the refusal of a file system without locks for the lock of
    another process, for which they would wait forever.
    """
    from filelock import FileLock

    with tempfile.TemporaryDirectory(prefix=".lock-", dir=folder) as scratch:
        own = FileLock(os.path.join(scratch, "lock"))
        try:
            own.acquire(timeout=0)
        except (OSError, NotImplementedError):
            return False
        own.release()
        return True
