"""A lock in a file, by which one process at a time makes what several need."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NOTE_SECONDS = 2.0
"""The wait for another process after which a note says so."""


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
