"""The index of a set of shards: where each image is, its hash and its label, found once.

It is kept as ``.flax_resnet.index`` beside the shards, or in the cache folder where these cannot be
written. A shard whose size or time of modification is another is read again; the others are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from flax_resnet.data.images.digests import RECENT_NS, content_fraction, map_in_threads
from flax_resnet.data.images.members import Shard, Stamp, stamp_of
from flax_resnet.errors import UserError
from flax_resnet.output_files import replacing
from flax_resnet.paths import cache_folder, writable_folder
from flax_resnet.process_lock import one_process

FILE = ".flax_resnet.index"
_VERSION = 1
_ARRAYS = ("offsets", "sizes", "digests", "fractions")


@dataclass(frozen=True)
class Scan:
    """What is in a shard.

    Attributes:
        names: Name of each image in the shard.
        arrays: ``offsets``, ``sizes``, ``digests`` and ``fractions`` of the images, see ``Shard``.
        fields: Values of the images that may be labels, by name; None where an image has none.
        left_out: Reason for each member that is left out, "" for the shard itself.
        class_names: Class names of fields that are declared to be class labels.
        starts, column: See ``Shard``.
    """

    names: Sequence[str]
    arrays: Mapping[str, npt.NDArray[Any]]
    fields: Mapping[str, Sequence[Any]]
    left_out: Mapping[str, str]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    starts: Sequence[int] = ()
    column: str = ""


ScanFile = Callable[[str, BinaryIO, tuple[str, ...]], Scan]
"""Function from the path of a shard, its content, and the names of the image and the label where
these are given, to what is in it."""


class Scanner:
    """Collects the images of a shard."""

    def __init__(self) -> None:
        self.left_out: dict[str, str] = {}
        self._names: list[str] = []
        self._rows: list[tuple[int, int, bytes, float]] = []
        self._fields: dict[str, list[Any]] = {}

    def add(self, name: str, offset: int, content: bytes, fields: Mapping[str, Any]) -> None:
        """Add an image with what may be its label."""
        for key in fields:
            self._fields.setdefault(key, [None] * len(self._names))
        for key, values in self._fields.items():
            values.append(fields.get(key))
        digest = hashlib.blake2b(content, digest_size=16).digest()
        self._names.append(name)
        self._rows.append((offset, len(content), digest, content_fraction(content)))

    def leave_out(self, name: str, reason: str) -> None:
        """Name a member that is left out, "" for the shard or its rest."""
        self.left_out[name] = reason

    def result(self, **more: Any) -> Scan:
        """Return what was collected."""
        digests = b"".join(row[2] for row in self._rows)
        arrays: dict[str, npt.NDArray[Any]] = {
            "offsets": np.array([row[0] for row in self._rows], np.int64),
            "sizes": np.array([row[1] for row in self._rows], np.int64),
            "digests": np.frombuffer(digests, np.uint8).reshape(-1, 16),
            "fractions": np.array([row[3] for row in self._rows], np.float64),
        }
        return Scan(self._names, arrays, self._fields, self.left_out, **more)


def open_shards(
    root: str, names: Sequence[str], scan: ScanFile, wanted: tuple[str, ...] = ()
) -> list[tuple[Shard, Scan]]:
    """Return what is in shards; only new and changed ones are read.

    Args:
        root: Their folder.
        names: Their paths in it.
        scan: Function that reads a shard.
        wanted: Names of the image and of the label in a sample, where they are given.

    Raises:
        UserError: A shard cannot be read.
    """
    with _one_process(root):
        held = _load(root, wanted)
        stamps = {name: _stamp(os.path.join(root, name)) for name in names}
        missing = [name for name in names if held.get(name, (None,))[0] != stamps[name]]
        if missing:
            scans = map_in_threads(partial(_scan, root, scan, wanted), missing)
            held |= dict(zip(missing, scans, strict=True))
            present = {n: one for n, one in held.items() if os.path.exists(os.path.join(root, n))}
            _save(root, wanted, present)
        found = {name: held[name] for name in names}
    return [
        (
            Shard(
                os.path.join(root, name),
                stamp,
                **{key: one.arrays[key] for key in _ARRAYS},
                starts=one.starts,
                column=one.column,
            ),
            one,
        )
        for name, (stamp, one) in found.items()
    ]


def _stamp(path: str) -> Stamp:
    try:
        return stamp_of(os.stat(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _scan(root: str, scan: ScanFile, wanted: tuple[str, ...], name: str) -> tuple[Stamp, Scan]:
    path = os.path.join(root, name)
    try:
        with open(path, "rb") as file:
            before = stamp_of(os.fstat(file.fileno()))
            found = scan(path, file, wanted)
            if before != stamp_of(os.fstat(file.fileno())):
                raise UserError(f"{path} changes while it is read: wait until it is whole")
            return before, found
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({error.strerror or error}): give yourself the permission to read "
        "it, or copy it again"
    )


def _places(root: str) -> Iterator[Path]:
    """Yield the paths where the index may be: beside the shards, and in the cache folder."""
    yield Path(root) / FILE
    with contextlib.suppress(UserError):
        name = hashlib.blake2b(os.fsencode(os.path.abspath(root)), digest_size=16).hexdigest()
        yield cache_folder() / "shards" / f"{name}.index"


@contextlib.contextmanager
def _one_process(root: str) -> Iterator[None]:
    """Let one process read new shards, while others wait for its index."""
    folder = writable_folder(root) or next(
        filter(None, (writable_folder(path.parent) for path in list(_places(root))[1:])), None
    )
    if folder is None:
        yield
        return
    note = f"another process is reading the shards of {root}; this one waits."
    with one_process(folder / f"{FILE}.lock", note):
        yield


def _load(root: str, wanted: tuple[str, ...]) -> dict[str, tuple[Stamp, Scan]]:
    """Return the kept contents of shards by name; empty where there is no index."""
    for path in _places(root):
        # Any exception: on a damaged file NumPy also raises what zipfile and zlib run into.
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
            facts = json.loads(file["facts"].tobytes())
            if facts["version"] != _VERSION or tuple(facts["wanted"]) != wanted:
                continue
            arrays = {key: file[key] for key in _ARRAYS}
            return dict(_entries(facts["shards"], arrays))
    return {}


def _entries(
    shards: Sequence[Mapping[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]
) -> Iterator[tuple[str, tuple[Stamp, Scan]]]:
    start = 0
    for one in shards:
        stop = start + len(one["names"])
        own = {key: array[start:stop] for key, array in arrays.items()}
        size, modified = one["stamp"]
        facts = {key: one[key] for key in ("fields", "left_out", "class_names", "starts", "column")}
        yield one["name"], ((size, modified), Scan(one["names"], own, **facts))
        start = stop


def _save(root: str, wanted: tuple[str, ...], found: Mapping[str, tuple[Stamp, Scan]]) -> None:
    """Keep an index. A shard that changed just now is not in it, as it may change once more without
    a trace in a file system that counts time coarsely."""
    latest = time.time_ns() - RECENT_NS
    kept = {name: entry for name, entry in found.items() if entry[0][1] < latest}
    facts = {
        "version": _VERSION,
        "wanted": wanted,
        "shards": [
            {
                "name": name,
                "stamp": stamp,
                "names": scan.names,
                "fields": scan.fields,
                "left_out": scan.left_out,
                "class_names": scan.class_names,
                "starts": scan.starts,
                "column": scan.column,
            }
            for name, (stamp, scan) in kept.items()
        ],
    }
    empty = Scanner().result().arrays
    arrays = {
        key: np.concatenate([empty[key], *(scan.arrays[key] for _, scan in kept.values())])
        for key in _ARRAYS
    }
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    for path in _places(root):
        with contextlib.suppress(OSError, UserError):
            with replacing(path) as fresh, open(fresh, "wb") as file:
                np.savez(file, allow_pickle=False, facts=text, **arrays)
            return
