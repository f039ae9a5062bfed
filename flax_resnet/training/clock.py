"""Time and speed of training."""

import time

from ..data import Prefetch

LOG_SECONDS = 0.5  # between reads of the metrics: each makes the host wait for the device


class Clock:
    """Time, speed and data wait of training since the last evaluation or compilation.

    Attributes:
        steps: Number of steps since then; the loop counts them.
    """

    def __init__(self, batch_size: int, batches: Prefetch, before: float) -> None:
        """Start the clock.

        Args:
            batch_size: Images of a step.
            batches: Where waiting for data is measured.
            before: Seconds that the run trained before it was resumed.
        """
        self._batch_size, self._batches = batch_size, batches
        self._start = time.perf_counter() - before
        self.restart()

    def restart(self) -> None:
        """Start measuring speed and data wait again."""
        self.steps = 0
        self._began = self._logged = time.perf_counter()
        self._waited = self._batches.waited

    def log_is_due(self) -> bool:
        """Whether the metrics should be read and reported now."""
        now = time.perf_counter()
        due = now - self._logged >= LOG_SECONDS
        if due:
            self._logged = now
        return due

    @property
    def total(self) -> float:
        """Seconds of the whole run, including those before it was resumed."""
        return time.perf_counter() - self._start

    @property
    def images_per_second(self) -> float:
        """Images a second."""
        return self.steps * self._batch_size / (time.perf_counter() - self._began)

    @property
    def data_wait(self) -> float:
        """Fraction of the time spent waiting for data."""
        return (self._batches.waited - self._waited) / (time.perf_counter() - self._began)
