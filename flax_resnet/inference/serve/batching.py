"""Dynamic batching: one thread computes the images that wait, a batch at a time."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]
"""Images uint8 ``[B, H, W, C]`` -> one row of outputs for each, ``[B, K]``."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    image: np.ndarray
    row: Future[np.ndarray] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Computes images in batches, in the order in which they were submitted.

    A batch is never padded: it is the largest of the sizes that the waiting images fill. A batch
    that is not full waits only while other images are being decoded.

    Attributes:
        ready: Done once every size has been compiled; it holds None or the error, and is cancelled
            where the batcher was closed before.
    """

    def __init__(
        self,
        compute: Compute,
        sizes: Sequence[int],
        image_shape: tuple[int, int, int],
        *,
        max_delay: float = 0.0,
        arriving: Callable[[], int] = lambda: 0,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        """Store the settings; ``start`` starts the thread.

        Args:
            compute: Computes a batch of one of the sizes.
            sizes: Sizes of batches, with 1 among them.
            image_shape: ``(H, W, C)`` of every image.
            max_delay: Seconds that the first image of a batch waits at most for others.
            arriving: The number of images that will be submitted soon.
            on_batch: Gets the size of each batch, and the seconds that it took.
        """
        self.ready: Future[None] = Future()
        self._compute = compute
        self._sizes = sorted(sizes)
        self._image_shape = image_shape
        self._max_delay = max_delay
        self._arriving = arriving
        self._on_batch = on_batch
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        """Start the thread, which first compiles every size."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return len(self._waiting)

    def submit(self, image: np.ndarray) -> Future[np.ndarray]:
        """Return the future outputs of an image, uint8 ``[H, W, C]``; it may be cancelled."""
        waiting = _Waiting(image)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.row

    def close(self) -> None:
        """Compute what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            for size in self._sizes:
                if self._closed:
                    self.ready.cancel()
                    return
                self._compute(np.zeros((size, *self._image_shape), np.uint8))
        except Exception as error:
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        while batch := self._take():
            started = time.monotonic()
            try:
                rows = self._compute(np.stack([waiting.image for waiting in batch]))
            except Exception as error:  # such as too little memory; the next batch may succeed
                for waiting in batch:
                    with suppress(InvalidStateError):  # it has been cancelled
                        waiting.row.set_exception(error)
            else:
                for waiting, row in zip(batch, rows, strict=True):
                    with suppress(InvalidStateError):
                        waiting.row.set_result(row)
            self._on_batch(len(batch), time.monotonic() - started)

    def _take(self) -> list[_Waiting]:
        """Return the next batch; an empty one at the end."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                self._wait_for_more()
                self._waiting = [w for w in self._waiting if not w.row.cancelled()]
                size = max((s for s in self._sizes if s <= len(self._waiting)), default=0)
                batch, self._waiting = self._waiting[:size], self._waiting[size:]
                if batch or self._closed:
                    return batch

    def _wait_for_more(self) -> None:
        while self._waiting and len(self._waiting) < self._sizes[-1] and not self._closed:
            left = self._waiting[0].since + self._max_delay - time.monotonic()
            if left <= 0 or not self._arriving():
                return
            self._changed.wait(left)
