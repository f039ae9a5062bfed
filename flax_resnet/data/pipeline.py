"""Order and batches. The order is a pure function of (seed, epoch), a batch one of the step."""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .datasets import Split

Batch = dict[str, np.ndarray]


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Order of a training set's ``size`` images in an epoch: a permutation, int64 ``[size]``."""
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.flags.writeable = False
    return order


def batch_indices(seed: int, step: int, batch_size: int, size: int) -> np.ndarray:
    """Which images step ``step`` (from 0) trains on, int64 ``[batch_size]``.

    The epochs' orders stand one after the other and batches are cut from that line, so nothing is
    dropped: a batch may take the end of one epoch and the start of the next.
    """
    first = step * batch_size
    epochs = range(first // size, (first + batch_size - 1) // size + 1)
    line = np.concatenate([epoch_order(seed, epoch, size) for epoch in epochs])
    start = first - epochs.start * size
    return line[start : start + batch_size]


def train_batches(
    split: Split, *, seed: int, batch_size: int, start: int, stop: int
) -> Iterator[Batch]:
    """The batches of steps ``start`` to ``stop`` (exclusive), ``{"image", "label"}``."""
    for step in range(start, stop):
        yield split.gather(batch_indices(seed, step, batch_size, len(split)))


def eval_batches(split: Split, *, batch_size: int) -> Iterator[Batch]:
    """Every image once, in order, in batches of one size: ``{"image", "label", "mask"}``.

    The last batch is filled up with copies that ``mask`` (bool ``[batch_size]``) leaves out.
    """
    for first in range(0, len(split), batch_size):
        indices = np.arange(first, first + batch_size)
        mask = indices < len(split)
        yield split.gather(np.where(mask, indices, first)) | {"mask": mask}


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
