"""Time and speed of training."""

import time

from ..data import Prefetch
from .profiling import Profiler

LOG_SECONDS = 0.5  # between reads of the metrics: each makes the host wait for the device


class Clock:
    """Time, speed and data wait of training since the last evaluation or compilation.

    Attributes:
        steps: Number of steps since then; the loop counts them.
    """

    def __init__(
        self, batch_size: int, batches: Prefetch, before: float, profiler: Profiler
    ) -> None:
        """Start the clock.

        Args:
            batch_size: Images of a step.
            batches: Where waiting for data is measured.
            before: Seconds that the run trained before it was resumed.
            profiler: It measures steps and checkpoints, in which processes wait for each other.
        """
        self._batch_size, self._batches, self._profiler = batch_size, batches, profiler
        self._start = time.perf_counter() - before
        self.restart()

    def restart(self) -> None:
        """Start measuring speed and data wait again."""
        self.steps = 0
        self._began = self._logged = time.perf_counter()
        self._waited = self._batches.waited
        self._joint = self._profiler.seconds("step", "checkpoint")

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

    @property
    def host_seconds(self) -> float:
        """Seconds a step that this process spent by itself: in its input and in its own code, not
        in steps and checkpoints."""
        joint = self._profiler.seconds("step", "checkpoint") - self._joint
        return (time.perf_counter() - self._began - joint) / max(self.steps, 1)
