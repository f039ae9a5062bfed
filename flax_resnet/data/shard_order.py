"""The order ``shards``: images in runs from shards in random order, over a fixed number of readers.

A reader is no process. Each row of a batch belongs to one of them, whatever the number of hosts,
and a host, which makes a block of the rows, reads only from its readers' part of the epoch. With
repeats (``batch_indices``) it reads more, because the copies of a row are in several blocks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from .images import Records, shard_numbers
from .pipeline import Source

READERS = 64
WINDOW = 256
"""Images of a reader that follow each other in the shards and are mixed with each other."""


def shards_of(train: Source) -> npt.NDArray[np.int64]:
    """Return the number of the shard of each training image, int64 ``[N]``.

    Raises:
        UserError: The images are not in shards.
    """
    source = getattr(train, "source", None)
    if source is not None:  # kept features, whose images these are
        return shards_of(source)[train.readable]  # type: ignore[attr-defined]
    files = getattr(train, "files", None)
    if not isinstance(files, Records):
        raise UserError(
            "--data.shuffle shards is for data sets in shards, --data.name webdataset or parquet: "
            "leave it out",
            exit_code=2,
        )
    return shard_numbers(files)


@dataclass(frozen=True, eq=False)
class ShardOrder:
    """An order of epochs for data that are fast to read in their own order.

    The shards of an epoch follow each other in random order, and this line of images is cut into
    ``readers`` equal pieces. A reader goes through its piece from the start; within runs of
    ``window`` images the order is random. Every image comes once in an epoch. Like ``epoch_order``
    it is a pure function of the seed and the epoch.

    Attributes:
        shards: Number of the shard of each training image, int ``[N]``; the images of a shard
            follow each other.
        batch_size: Number of different images in a batch.
        readers: Number of pieces; at most the batch size of them are used.
        window: Number of neighbours that are mixed.
    """

    shards: npt.NDArray[np.int64]
    batch_size: int
    readers: int = READERS
    window: int = WINDOW

    def __call__(self, seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
        """Return the order of an epoch's images, int64 ``[size]``."""
        return self._cached(seed, epoch, size)

    @functools.cached_property
    def _cached(self) -> functools._lru_cache_wrapper[npt.NDArray[np.int64]]:
        return functools.lru_cache(maxsize=2)(self._order)  # a batch may straddle two epochs

    def _order(self, seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([seed, epoch, 3])
        # Where each shard's images begin; the line is the shards' images in permuted order.
        starts = np.flatnonzero(np.diff(self.shards, prepend=-1))
        runs = np.split(np.arange(size), starts[1:])
        line = np.concatenate([runs[shard] for shard in rng.permutation(len(runs))])
        # The row of each position: epochs are joined end to end and cut into batches.
        rows = (epoch * size + np.arange(size)) % self.batch_size
        readers = min(self.readers, self.batch_size)
        reader_of = rows * readers // self.batch_size
        counts = np.bincount(reader_of, minlength=readers)
        for piece in np.split(line, np.cumsum(counts)[:-1]):
            for start in range(0, len(piece), self.window):
                rng.shuffle(piece[start : start + self.window])
        order = np.empty(size, np.int64)
        order[np.argsort(reader_of, kind="stable")] = line
        order.flags.writeable = False
        return order
