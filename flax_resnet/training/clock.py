"""How long and how fast a run trains."""

import time

from ..data import Prefetch

LOG_SECONDS = 0.5  # between looks at the metrics: each makes the host wait for the device


class Clock:
    """Time, speed and data wait of training, without evaluation, since the last evaluation or
    compilation."""

    def __init__(self, batch_size: int, batches: Prefetch, before: float) -> None:
        self._batch_size, self._batches = batch_size, batches
        self._start = time.perf_counter() - before
        self.restart()

    def restart(self) -> None:
        self.steps = 0
        self._began = self._logged = time.perf_counter()
        self._waited = self._batches.waited

    def log_is_due(self) -> bool:
        now = time.perf_counter()
        due = now - self._logged >= LOG_SECONDS
        if due:
            self._logged = now
        return due

    @property
    def total(self) -> float:
        """Seconds of the whole run, those before a resumption included."""
        return time.perf_counter() - self._start

    @property
    def images_per_second(self) -> float:
        return self.steps * self._batch_size / (time.perf_counter() - self._began)

    @property
    def data_wait(self) -> float:
        return (self._batches.waited - self._waited) / (time.perf_counter() - self._began)
