"""Order and batches. The order is a pure function of (seed, epoch), a batch one of the step."""

import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Batch = dict[str, np.ndarray]

CROP_DRAWS = 22  # of one image: two for each of ten attempts at a box, and its place


class Source(Protocol):
    """The images and labels of one split.

    Attributes:
      streams: images are decoded when asked for, cropped as ``draws`` say; otherwise they are in
        memory, and random crops are the device's work.
      bad: path and reason of the files found so far that cannot be decoded.
      image_shape: ``(H, W, C)`` of the images of a batch.
    """

    @property
    def streams(self) -> bool: ...

    @property
    def bad(self) -> dict[str, str]: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> np.ndarray:
        """int32 ``[len]``, or float32 ``[len, classes]`` where an image has any number of them."""
        ...

    def __len__(self) -> int: ...

    def gather(
        self, indices: np.ndarray, draws: np.ndarray | None = None, size: int | None = None
    ) -> Batch:
        """``{"image": uint8 [B, H, W, C], "label"}`` of the images at ``indices`` ``[B]``.

        With ``draws`` (float64 ``[B, CROP_DRAWS]``, in [0, 1)) each is a random crop that its row
        alone decides; without, the whole image or its middle. Images that stream have height and
        width ``size``, where it is given. ``"mask"`` (bool ``[B]``), where there is one, is False
        for images that could not be read. Of images that stream, two batches may be gathered at a
        time.
        """
        ...


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Order of a training set's ``size`` images in an epoch: a permutation, int64 ``[size]``."""
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, step: int, batch_size: int, size: int, repeats: int = 1) -> np.ndarray:
    """Which images step ``step`` (from 0) trains on, int64 ``[batch_size]``.

    The epochs' orders stand one after the other and batches are cut from that line, so nothing is
    dropped: a batch may take the end of one epoch and the start of the next.

    With ``repeats`` a batch holds ``batch_size / repeats`` images, each so many times, to be
    augmented anew (Hoffer et al. 2020, "Augment your batch"; Berman et al. 2019). The copies of an
    image are that far apart, so that what mixes neighbours mixes different images. An image comes
    ``repeats`` times in as many epochs' worth of steps, as without repeats.

    Raises:
      ValueError: the batch does not divide by ``repeats``.
    """
    if repeats > 1:
        if batch_size % repeats:
            raise ValueError(f"a batch of {batch_size} does not divide by {repeats} repeats")
        return np.tile(batch_indices(seed, step, batch_size // repeats, size), repeats)
    first = step * batch_size
    epochs = range(first // size, (first + batch_size - 1) // size + 1)
    line = np.concatenate([epoch_order(seed, epoch, size) for epoch in epochs])
    start = first - epochs.start * size
    return line[start : start + batch_size]


@dataclass(frozen=True)
class Shard:
    """Which rows of every batch this process makes: the ``index``-th of ``count`` equal parts."""

    index: int = 0
    count: int = 1

    def of(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of an array ``[batch_size, ...]``.

        Raises:
          ValueError: the batch does not divide among the processes.
        """
        size, rest = divmod(len(rows), self.count)
        if rest:
            raise ValueError(f"a batch of {len(rows)} does not divide among {self.count} processes")
        return rows[self.index * size : (self.index + 1) * size]


def crop_draws(seed: int, step: int, batch_size: int) -> np.ndarray:
    """Numbers in [0, 1) that decide the random crops of step ``step``'s images, float64
    ``[batch_size, CROP_DRAWS]``."""
    stream = 1  # 0 would be that of epoch_order
    return np.random.default_rng([seed, step, stream]).random((batch_size, CROP_DRAWS))


def train_batches(
    split: Source,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    random_crops: bool = True,
    repeats: int = 1,
    size_at: Callable[[int], int | None] = lambda step: None,
    shard: Shard = Shard(),
) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``stop`` (exclusive), ``{"image", "label"}``.

    ``batch_size`` is the global one; each process of a pod makes its ``shard`` of it.
    ``repeats``: see :func:`batch_indices`. ``random_crops`` and ``size_at``, height and width by
    step, are for images that stream; those in memory are cropped and resized on the device.
    """

    def batch_of(step: int) -> Batch:
        indices = shard.of(batch_indices(seed, step, batch_size, len(split), repeats))
        if not split.streams:
            return split.gather(indices)
        draws = shard.of(crop_draws(seed, step, batch_size)) if random_crops else None
        size = size_at(step)
        return split.gather(indices, draws, **({} if size is None else {"size": size}))

    if not split.streams:
        yield from map(batch_of, range(start, stop))
        return
    # Threads that are done with a batch's last images begin the next one's.
    pool = ThreadPoolExecutor(2, "batch")
    try:
        begun: deque[Future[Batch]] = deque()
        for step in range(start, stop):
            begun.append(pool.submit(batch_of, step))
            if len(begun) == 2:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def eval_batches(split: Source, *, batch_size: int, shard: Shard = Shard()) -> Iterator[Batch]:
    """Every image once, in order, in batches of one size: ``{"image", "label", "mask"}``.

    The last batch is filled up with copies that ``mask`` (bool ``[batch_size]``) leaves out.
    """
    for first in range(0, len(split), batch_size):
        indices = shard.of(np.arange(first, first + batch_size))
        mask = indices < len(split)
        batch = split.gather(np.where(mask, indices, first))
        # A source leaves out, by a mask of its own, the images that it could not read.
        yield batch | {"mask": mask & batch.get("mask", True)}


class Prefetch:
    """Iterates over ``place(batch)`` for each of ``batches``, made ahead in a thread.

    Attributes:
      waited: seconds the consumer has waited for batches so far.
    """

    def __init__(
        self, batches: Iterator[Batch], place: Callable[[Batch], Any], depth: int = 2
    ) -> None:
        self.waited = 0.0
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        arguments = (batches, place)
        self._thread = threading.Thread(target=self._produce, args=arguments, daemon=True)
        self._thread.start()

    def _produce(self, batches: Iterator[Batch], place: Callable[[Batch], Any]) -> None:
        try:
            for batch in batches:
                self._put((place(batch), None))
                if self._stopped.is_set():
                    return
            self._put((None, StopIteration()))
        except BaseException as error:  # handed to the consumer, who can tell the user
            self._put((None, error))

    def _put(self, item: tuple[Any, BaseException | None]) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue

    def __iter__(self) -> "Prefetch":
        return self

    def __next__(self) -> Any:
        if self._stopped.is_set():
            raise StopIteration
        began = time.perf_counter()
        batch, error = self._queue.get()
        self.waited += time.perf_counter() - began
        if error is not None:
            self._stopped.set()  # nothing follows: asking again must not wait
            raise error
        return batch

    def close(self) -> None:
        """End the thread; batches made ahead are dropped."""
        self._stopped.set()
        self._thread.join()
