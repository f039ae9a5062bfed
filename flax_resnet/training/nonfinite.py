"""The steps whose loss or gradient is not finite: which they are, and a run that skips them."""

from dataclasses import dataclass

import jax
import numpy as np
from rich.console import Console

from .divergence import DivergedError
from .eval_step import Metrics
from .messages import warn
from .run import Run
from .step import COUNTED_STEPS

MOST_IN_A_ROW = 50  # skipped steps
MOST_STEPS, MOST_SAMPLES = 4, 8  # that a sentence names


@dataclass(frozen=True)
class Found:
    """Steps that are not finite.

    Attributes:
        count: Their number.
        steps: Their numbers, from 1; empty if they were looked for too rarely to know.
        span: The number of the first step that was looked at, and of the last.
    """

    count: int
    steps: tuple[int, ...]
    span: tuple[int, int]


class NonfiniteSteps:
    """Finds the steps that are not finite among those since the metrics were last read."""

    def __init__(self, run: Run, sums: Metrics, step: int) -> None:
        """Start after ``step`` steps, with the metrics summed so far."""
        self._run, self._step, self._in_a_row = run, step, 0
        self.restart(sums)

    def restart(self, sums: Metrics) -> None:
        """Take the metrics for those of another sum."""
        self._counts = _counts(sums)

    def find(self, sums: Metrics, step: int) -> Found:
        """Find them among the steps since the last call.

        Args:
            sums: The metrics.
            step: Number of steps done.
        """
        now, first = _counts(sums), self._step + 1
        new = now - self._counts
        self._counts, self._step = now, step
        if not np.isfinite(new).all():  # then so are the metrics, and the steps are not known
            return Found(step + 1 - first, (), (first, step))
        count = round(float(new.sum()))
        counted = tuple(n for n in range(first, step + 1) if new[(n - 1) % COUNTED_STEPS])
        return Found(count, counted if len(counted) == count else (), (first, step))

    def describe(self, found: Found, factor: float) -> str:
        """The steps with their learning rates and samples, as the subject of a sentence.

        Args:
            found: One step or more.
            factor: That of the learning rate.
        """
        if not found.steps:
            return f"{found.count:,} of the steps {found.span[0]:,} to {found.span[1]:,}"
        names = []
        for step in found.steps[:MOST_STEPS]:
            samples = ", ".join(map(str, self._run.samples(step - 1)[:MOST_SAMPLES]))
            rate = float(self._run.schedule(step - 1)) * factor
            names.append(f"step {step:,} (learning rate {rate:g}, samples {samples}, ...)")
        more = len(found.steps) - MOST_STEPS
        if more > 0:
            names.append(f"{more:,} more up to step {found.steps[-1]:,}")
        text = ", ".join(names[:-1]) + " and " + names[-1] if names[1:] else names[0]
        return text[0].upper() + text[1:]

    def report_skipped(self, found: Found, factor: float, console: Console) -> None:
        """Print a warning on the steps, which were skipped.

        Raises:
            DivergedError: Every step was skipped for long.
        """
        every = found.count == found.span[1] - found.span[0] + 1
        self._in_a_row = self._in_a_row + found.count if every else 0
        if not found.count:
            return
        was = "was" if found.count == 1 else "were"
        text = f"{self.describe(found, factor)} {was} skipped"
        reason = "because the loss or the gradient was not finite"
        if self._in_a_row >= MOST_IN_A_ROW:
            raise DivergedError(
                f"{text}, {reason}, and so were all before, {self._in_a_row} in a row: training "
                "diverged. Lower the learning rate; the checkpoints saved before are kept."
            )
        warn(console, f"{text}, {reason}.")


def _counts(sums: Metrics) -> np.ndarray:
    return np.asarray(jax.device_get(sums["nonfinite_steps"]))
