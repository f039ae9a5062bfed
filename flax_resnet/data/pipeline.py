"""Batches of a split's images, made ahead in threads.

A batch is a pure function of the seed and the step.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .order import Order, batch_indices, crop_uniforms, epoch_order, mirrored

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """The images and labels of one split.

    Attributes:
        streams: True: images are decoded and cropped when a batch is gathered. False: they are in
            memory, and random crops are made on the device.
        bad: Path and reason of each file found so far that cannot be decoded.
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
        """int32 ``[N]``, or float32 ``[N, classes]`` if an image has any number of classes."""
        ...

    def __len__(self) -> int: ...

    def gather(
        self,
        indices: np.ndarray,
        crop_uniforms: np.ndarray | None = None,
        size: int | None = None,
        replace: bool = False,
    ) -> Batch:
        """Return a batch; two threads may gather from a streaming source at once.

        Args:
            indices: Indices into the split, integers ``[B]``.
            crop_uniforms: Random numbers in [0, 1), float64 ``[B, UNIFORMS_PER_CROP]``: each image
                is a random crop that its row alone determines. None: the whole image or its
                center.
            size: Height and width of the images, for streaming sources.
            replace: Whether other images replace those that cannot be read, as batch norm and
                mixing see masked images too; of random crops they always do.

        Returns:
            ``"image"`` uint8 ``[B, H, W, C]`` and ``"label"``; optionally ``"mask"`` bool ``[B]``,
            False for images that could not be read.
        """
        ...


@dataclass(frozen=True)
class Shard:
    """The rows of each batch that this process makes: block ``index`` of ``count`` equal blocks."""

    index: int = 0
    count: int = 1

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return this process's rows of an array ``[batch_size, ...]``.

        Raises:
            ValueError: The number of rows is not divisible by the number of processes.
        """
        size, rest = divmod(len(rows), self.count)
        if rest:
            raise ValueError(f"a batch of {len(rows)} does not divide among {self.count} processes")
        return rows[self.index * size : (self.index + 1) * size]


def train_batches(
    split: Source,
    *,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    random_crops: bool = True,
    alternating_flip: bool = False,
    repeats: int = 1,
    size_at: Callable[[int], int | None] = lambda step: None,
    shard: Shard = Shard(),
    order: Order = epoch_order,
) -> Iterator[Batch]:
    """Yield the training batches of the steps ``start`` to ``stop`` (exclusive).

    Args:
        split: The images and labels.
        seed: Seed of the order and of the crops.
        batch_size: Number of images in the global batch.
        start, stop: First step, and the step after the last.
        random_crops: Whether a streaming source crops at random; images in memory are cropped on
            the device.
        alternating_flip: Whether images are mirrored in every other epoch, see ``mirrored``.
        repeats: Copies of each image in a batch, see ``batch_indices``.
        size_at: Height and width of a streaming source's images by step; None for its own.
        shard: The rows of the global batch that this process makes.
        order: The order of an epoch.

    Yields:
        ``{"image", "label"}``, see ``Source.gather``.
    """

    def batch_of(step: int) -> Batch:
        whole = batch_indices(seed, step, batch_size, len(split), repeats, order)
        batch = stored(step, shard.of(whole))
        if alternating_flip:
            rows = shard.of(mirrored(seed, step, whole, len(split), repeats))
            batch["image"][rows] = batch["image"][rows, :, ::-1]
        return batch

    def stored(step: int, indices: np.ndarray) -> Batch:
        if not split.streams:
            return split.gather(indices)
        options: dict[str, Any] = {} if random_crops else {"replace": True}
        if (size := size_at(step)) is not None:
            options["size"] = size
        uniforms = shard.of(crop_uniforms(seed, step, batch_size)) if random_crops else None
        return split.gather(indices, uniforms, **options)

    if not split.streams:
        yield from map(batch_of, range(start, stop))
        return
    # Two batches at a time: while the last images of one are decoded, idle threads begin the next.
    pool = ThreadPoolExecutor(2, "batch")
    try:
        pending: deque[Future[Batch]] = deque()
        for step in range(start, stop):
            pending.append(pool.submit(batch_of, step))
            if len(pending) == 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def eval_batches(split: Source, *, batch_size: int, shard: Shard = Shard()) -> Iterator[Batch]:
    """Yield every image once, in order, in batches of equal size: ``{"image", "label", "mask"}``.

    The last batch is filled up with copies for which ``mask`` (bool ``[batch_size]``) is False.
    """
    for first in range(0, len(split), batch_size):
        indices = shard.of(np.arange(first, first + batch_size))
        mask = indices < len(split)
        batch = split.gather(np.where(mask, indices, first))
        # The source's own mask is False for images that it could not read.
        yield batch | {"mask": mask & batch.get("mask", True)}


class Prefetch:
    """An iterator over ``put(batch)`` of every batch, computed ahead of time in a thread.

    Attributes:
        waited: Seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self, batches: Iterator[Batch], put: Callable[[Batch], Any], depth: int = 2
    ) -> None:
        """Start the thread.

        Args:
            batches: The batches of the host.
            put: Function that puts a batch on the devices.
            depth: Number of batches kept ready.
        """
        self.waited = 0.0
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._stopped = threading.Event()
        arguments = (batches, put)
        self._thread = threading.Thread(target=self._produce, args=arguments, daemon=True)
        self._thread.start()

    def _produce(self, batches: Iterator[Batch], put: Callable[[Batch], Any]) -> None:
        try:
            for batch in batches:
                self._enqueue((put(batch), None))
                if self._stopped.is_set():
                    return
            self._enqueue((None, StopIteration()))
        except BaseException as error:  # the consumer raises it, so that the user sees it
            self._enqueue((None, error))

    def _enqueue(self, item: tuple[Any, BaseException | None]) -> None:
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
            self._stopped.set()  # nothing follows, so another call must not wait
            raise error
        return batch

    def close(self) -> None:
        """End the thread and drop the batches that were computed ahead."""
        self._stopped.set()
        self._thread.join()
