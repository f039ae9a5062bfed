"""Images inside shards: the members of tar files and the rows of Parquet files, each with a name.

A shard's index (``shards.index``) knows where the bytes of each image are, so that any image can be
read without those before it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from flax_resnet.errors import UserError

Stamp = tuple[int, int]
"""Size in bytes and time of modification in nanoseconds of a shard."""

# Row groups that are held decompressed. In the order ``shards`` a batch needs one of each reader.
_MAX_HELD_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class Shard:
    """Where the images of a shard are; several threads may read at once.

    Attributes:
        path: The file.
        stamp: Its size and time of modification when it was indexed.
        offsets: First byte of each image in the file, int64 ``[N]``; -1 - row for images of a
            compressed row group.
        sizes: Bytes of each image, int64 ``[N]``.
        digests: ``content_digest`` of each image, uint8 ``[N, 16]``.
        fractions: ``content_fraction`` of each image, float64 ``[N]``.
        starts: First row of each row group, and the number of rows; empty for tar files.
        column: Name of the column of images; empty for tar files.
    """

    path: str
    stamp: Stamp
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]
    fractions: npt.NDArray[np.float64]
    starts: Sequence[int] = ()
    column: str = ""

    def read(self, row: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            UserError: The shard has changed since it was indexed.
            OSError: It cannot be read.
        """
        offset = int(self.offsets[row])
        with open(self.path, "rb", buffering=0) as file:
            self._check(os.fstat(file.fileno()))
            if offset >= 0:
                file.seek(offset)
                return file.read(int(self.sizes[row]))
        group = int(np.searchsorted(self.starts, -1 - offset, "right")) - 1
        rows = _HELD.get((self.path, self.stamp, group), lambda: self._row_group(group))
        return rows[-1 - offset - self.starts[group]].as_py()

    def _row_group(self, group: int) -> Any:
        from flax_resnet.data.images.shards.parquet import read_row_group

        return read_row_group(self.path, group, self.column)

    def _check(self, status: os.stat_result) -> None:
        if stamp_of(status) != self.stamp:
            raise UserError(
                f"{self.path} has changed while it was in use: start the command again, which "
                "reads the shard anew and says what differs"
            )


class Member(str):
    """The name of an image in a shard, ``SHARD/NAME``, by which its bytes can be read."""

    __slots__ = ("row", "shard")

    shard: Shard
    row: int

    def __new__(cls, name: str, shard: Shard, row: int) -> Member:
        """Make the name of the image in ``row`` of a shard."""
        self = super().__new__(cls, name)
        self.shard = shard
        self.row = row
        return self

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return int(self.shard.sizes[self.row])

    @property
    def digest(self) -> str:
        """The ``content_digest`` of the image."""
        return self.shard.digests[self.row].tobytes().hex()

    @property
    def fraction(self) -> float:
        """The ``content_fraction`` of the image."""
        return float(self.shard.fractions[self.row])

    def read(self) -> bytes:
        """Return the bytes of the image; see ``Shard.read``."""
        return self.shard.read(self.row)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what changes when a shard changes."""
    return status.st_size, status.st_mtime_ns


@dataclass
class _Held:
    """The row groups that were read last; each is read by one thread while others wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    groups: OrderedDict[Any, tuple[threading.Lock, list[Any]]] = field(default_factory=OrderedDict)

    def get(self, key: Any, read: Callable[[], Any]) -> Any:
        with self.lock:
            entry = self.groups.setdefault(key, (threading.Lock(), []))
            self.groups.move_to_end(key)
        own, found = entry
        with own:
            if not found:
                found.append(read())
            rows = found[0]
        with self.lock:
            held = sum(group.nbytes for _, its in self.groups.values() for group in its)
            while held > _MAX_HELD_BYTES and len(self.groups) > 1:
                _, (_, dropped) = self.groups.popitem(last=False)
                held -= sum(group.nbytes for group in dropped)
        return rows


_HELD = _Held()
