"""Steps that a run skips because their loss or gradient is not finite."""

import jax
from rich.console import Console

from .divergence import DivergedError
from .messages import warn
from .run import Run
from .step import Metrics

MOST_IN_A_ROW = 50


class Skips:
    """Reports the steps that were skipped since the metrics were last read."""

    def __init__(self, run: Run, sums: Metrics, step: int, console: Console) -> None:
        """Start after ``step`` steps, with the metrics summed so far."""
        self._run, self._step, self._console = run, step, console
        self._skips, self._in_a_row = run.config.on_nan == "skip", 0
        self.restart(sums)

    def restart(self, sums: Metrics) -> None:
        """Take the metrics for those of another sum."""
        self._count, self._sum = self._of(sums) if self._skips else (0, 0)

    def report(self, sums: Metrics, step: int) -> None:
        """Print a warning on the steps that were skipped since the last call.

        Args:
            sums: The metrics.
            step: Number of steps done.

        Raises:
            DivergedError: Every step was skipped for long.
        """
        if not self._skips:
            return
        count, total = self._of(sums)
        skipped, number = count - self._count, total - self._sum
        steps, first = step - self._step, self._step + 1
        self._count, self._sum, self._step = count, total, step
        self._in_a_row = self._in_a_row + skipped if skipped == steps else 0
        if not skipped:
            return
        if skipped == 1:
            samples = ", ".join(map(str, self._run.samples(number - 1)[:8]))
            rate = float(self._run.schedule(number - 1))
            what = f"Step {number:,} was skipped (learning rate {rate:g}, samples {samples}, ...)"
        else:
            what = f"{skipped:,} of the steps {first:,} to {step:,} were skipped"
        reason = "because the loss or the gradient was not finite"
        if self._in_a_row >= MOST_IN_A_ROW:
            raise DivergedError(
                f"{what}, {reason}, and so were all before, {self._in_a_row} in a row: training "
                "diverged. Lower the learning rate; the checkpoints saved before are kept."
            )
        warn(self._console, f"{what}, {reason}.")

    @staticmethod
    def _of(sums: Metrics) -> tuple[int, int]:
        values = jax.device_get((sums["nonfinite"], sums["nonfinite_step"]))
        return int(values[0]), int(values[1])
