"""Hashes of the contents of image files, kept on disk so that only changed files are read again.

A file counts as unchanged while its path, size, inode and times of modification and of status
change are the same. The status change time cannot be set by programs, so a file that was replaced
together with its old modification time is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from flax_resnet.data.images.decoding import ImageDecodeError, read_bytes
from flax_resnet.data.images.members import Member
from flax_resnet.errors import UserError
from flax_resnet.paths import cache_folder

CACHE_FILE = "digests-1.sqlite"  # the number is the version of the table
# A file that changed this recently is not kept: some file systems count time in steps of two
# seconds, so that one more change might leave no trace.
RECENT_NS = 2_000_000_000
_FILES_PER_TASK = 64  # a task for each file would cost as much as reading a small one
_ROWS_PER_QUERY = 500
_STAMP = struct.Struct("<QqqQ")
_DIGESTS = struct.Struct("<d16s")
_CHECKSUM = struct.Struct("<I")

_T = TypeVar("_T")


@dataclass(frozen=True)
class FileDigest:
    """Hashes of one file's content.

    Attributes:
        content: BLAKE2b of 128 bits, as 32 hex digits.
        fraction: Another hash, as a number in [0, 1), which determines the split of the file.
    """

    content: str
    fraction: float


def content_digest(content: bytes | memoryview) -> str:
    """Return the BLAKE2b hash of 128 bits of an image's content, as 32 hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def content_fraction(content: bytes | memoryview) -> float:
    """Return a number in [0, 1) that depends on the content alone, evenly distributed."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # all 53 bits of a float


def digest_files(paths: Sequence[str]) -> list[FileDigest | None]:
    """Return the digests of files in order, and None for those that cannot be read.

    Digests are kept in ``digests-1.sqlite`` in the cache folder, and only files that are new or
    changed are read. Without a cache folder that can be written, all files are read. Those of
    images in shards are in the index of these.
    """
    members = [path for path in paths if isinstance(path, Member)]
    if len(members) == len(paths):
        return [FileDigest(member.digest, member.fraction) for member in members]
    stamps = map_in_threads(_stamp, paths, _FILES_PER_TASK)
    keys = [_key(path) for path in paths]
    with _open_cache() as cache:
        found = _lookup(cache, keys, stamps)
        missing = [index for index, digest in enumerate(found) if digest is None]
        if not missing:
            return found
        latest = time.time_ns() - RECENT_NS
        computed = map_in_threads(_digest, [paths[index] for index in missing], _FILES_PER_TASK)
        rows = []
        for index, digest in zip(missing, computed, strict=True):
            found[index] = digest
            stamp = stamps[index]
            is_unchanged = stamp is not None and stamp == _stamp(paths[index])
            if digest is not None and is_unchanged and _changed_ns(stamp) < latest:
                rows.append((keys[index], _row(keys[index], stamp, digest)))
        _keep(cache, rows)
    return found


def map_in_threads(
    call: Callable[[str], _T], paths: Sequence[str], paths_per_task: int = 1
) -> list[_T]:
    """Return ``call(path)`` of every path in order, computed by threads that read in parallel."""
    tasks = [paths[n : n + paths_per_task] for n in range(0, len(paths), paths_per_task)]
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda task: [call(path) for path in task], tasks)
        return [result for task in results for result in task]


def _digest(path: str) -> FileDigest | None:
    try:
        content = read_bytes(path)
    except ImageDecodeError:
        return None
    return FileDigest(content_digest(content), content_fraction(content))


def _key(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(os.path.abspath(path)), digest_size=16).digest()


def _stamp(path: str) -> bytes | None:
    """Return what changes when a file changes, or None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    inode = status.st_ino % 2**64
    return _STAMP.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode)


def _changed_ns(stamp: bytes | None) -> int:
    _, modified, changed, _ = _STAMP.unpack(stamp or b"")
    return max(modified, changed)


@contextlib.contextmanager
def _open_cache() -> Iterator[sqlite3.Connection | None]:
    """Open the table of kept digests; None if there is none and none can be made."""
    connection = None
    with contextlib.suppress(OSError, UserError, sqlite3.Error):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(folder / CACHE_FILE, timeout=1)
    try:
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _lookup(
    cache: sqlite3.Connection | None, keys: Sequence[bytes], stamps: Sequence[bytes | None]
) -> list[FileDigest | None]:
    if cache is None:
        return [None] * len(keys)
    rows: dict[bytes, bytes] = {}
    with contextlib.suppress(sqlite3.Error):  # damaged, locked, or without the table yet
        for start in range(0, len(keys), _ROWS_PER_QUERY):
            some = keys[start : start + _ROWS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows.update(cache.execute(f"SELECT * FROM digests WHERE key IN ({marks})", some))
    return [_parsed(key, stamp, rows.get(key)) for key, stamp in zip(keys, stamps, strict=True)]


def _keep(cache: sqlite3.Connection | None, rows: Sequence[tuple[bytes, bytes]]) -> None:
    if cache is None or not rows:
        return
    create = "CREATE TABLE IF NOT EXISTS digests (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID"
    try:
        with cache:
            cache.execute(create)
            cache.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)
    except sqlite3.OperationalError:
        return  # it cannot be written now
    except sqlite3.DatabaseError:
        with contextlib.suppress(OSError):  # it is damaged: the next start makes another
            (cache_folder() / CACHE_FILE).unlink()


def _row(key: bytes, stamp: bytes | None, digest: FileDigest) -> bytes:
    row = (stamp or b"") + _DIGESTS.pack(digest.fraction, bytes.fromhex(digest.content))
    return row + _CHECKSUM.pack(zlib.crc32(key + row))


def _parsed(key: bytes, stamp: bytes | None, row: bytes | None) -> FileDigest | None:
    """Return the digests of a row, or None if the file has changed or the row is damaged."""
    if stamp is None or not isinstance(row, bytes) or not row.startswith(stamp):
        return None
    facts = row[: _STAMP.size + _DIGESTS.size]
    if row != facts + _CHECKSUM.pack(zlib.crc32(key + facts)):
        return None
    fraction, content = _DIGESTS.unpack_from(facts, _STAMP.size)
    return FileDigest(content.hex(), fraction)
