"""When a checkpoint is due between evaluations: by steps, epochs or time."""

import math
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..config import Interval
from ..processor import available_cores
from .checkpoint import Checkpoints

MOST_OVERHEAD = 0.01  # of the time, that saves by time may take
MOST_SECONDS = 600.0  # between saves by time, however long they take


class SaveSchedule:
    """Whether the loop is to save after a step; every process calls it after the same steps.

    By steps and epochs that follows from the step. By time process 0 decides, and all save at the
    same step: at steps that all know it sends them its decision, and the step at which it decides
    next, which it places by the speed so far.
    """

    def __init__(
        self,
        interval: Interval | None,
        epoch_at: Callable[[int], float],
        checkpoints: Checkpoints,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            interval: How often to save; None for never.
            epoch_at: Epochs done after a number of steps.
            checkpoints: Those of the run: a save that failed is tried again.
            clock: Seconds.
        """
        self._interval, self._epoch_at, self._checkpoints = interval, epoch_at, checkpoints
        self._clock = clock
        self._seconds = interval.count if interval and interval.unit == "seconds" else math.inf
        self._saved_at = clock()
        self._blocked: float | None = None  # of a save whose cost was not yet looked at
        self._saved_step: int | None = None
        self._next_decision = 0
        # On a CPU a save in the background takes a core from training.
        self._share = 1 / available_cores() if jax.default_backend() == "cpu" else 0.0

    def is_due(self, step: int) -> bool:
        """Whether to save after ``step`` steps."""
        interval = self._interval
        if interval is not None and interval.unit == "steps" and step % interval.count == 0:
            return True
        if interval is not None and interval.unit == "epochs":
            done = [math.floor(self._epoch_at(one) / interval.count) for one in (step - 1, step)]
            if done[0] < done[1]:
                return True
        if self._saved_step is None:
            self._saved_step = step
        if jax.process_count() == 1:
            return self._decide()
        if step < self._next_decision:
            return False
        message = np.array([self._decide(), self._after(step)], np.int32)
        due, following = np.asarray(multihost_utils.broadcast_one_to_all(message)).tolist()
        self._next_decision = step + following
        return bool(due)

    def saved(self, step: int, seconds: float | None) -> None:
        """Start the clock again after a save or an evaluation.

        Args:
            step: Number of steps done.
            seconds: Time for which the save stopped the training; None if it is not known.
        """
        self._saved_at, self._saved_step, self._blocked = self._clock(), step, seconds

    def _decide(self) -> bool:
        if self._checkpoints.retry_is_due:
            return True
        if self._checkpoints.is_saving:
            return False
        if self._blocked is not None and self._interval and self._interval.unit == "seconds":
            cost = self._blocked + self._checkpoints.background_seconds * self._share
            wanted, self._blocked = self._interval.count, None
            self._seconds = max(wanted, min(cost / MOST_OVERHEAD, MOST_SECONDS))
        return self._clock() - self._saved_at >= self._seconds

    def _after(self, step: int) -> int:
        """Steps until process 0 decides again: those that fit in half of the time that is left,
        and not more than were done since the last save."""
        done = max(step - (self._saved_step or 0), 1)
        passed = max(self._clock() - self._saved_at, 1e-3)
        left = min(self._seconds - passed, 60.0)
        return max(1, min(done, int(left / 2 * done / passed)))
