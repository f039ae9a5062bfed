"""Progress of training: a bar on a terminal, plain lines elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0  # between plain lines


class Progress:
    """Shows step, epoch, loss, accuracy, images/s, data wait and the time to go.

    A context manager; ``console.print`` works beside it.
    """

    def __init__(self, console: Console, total_steps: int, start: int) -> None:
        self._console = console
        self._total, self._start = total_steps, start
        self._began = self._printed = time.perf_counter()
        self._bar = RichProgress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(
            "train", total=total_steps, completed=start, epoch="0", status="starting"
        )

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(
        self, step: int, *, epoch: float, loss: float, top1: float, rate: float, wait: float
    ) -> None:
        """Show the state after ``step`` steps.

        Args:
          step: steps done.
          epoch: epochs done.
          loss, top1: means since the last evaluation.
          rate: images a second.
          wait: share of the time spent waiting for data.
        """
        status = f"loss {loss:.3f}  top-1 {top1:.1%}  {rate:,.0f} images/s  data wait {wait:.0%}"
        self._bar.update(self._task, completed=step, epoch=f"{epoch:.1f}", status=status)
        now = time.perf_counter()
        if not self._console.is_terminal and now - self._printed > PLAIN_SECONDS:
            self._printed = now
            left = (now - self._began) / max(step - self._start, 1) * (self._total - step)
            self._console.print(
                f"step {step}/{self._total}  epoch {epoch:.1f}  {status}  {_clock(left)} to go"
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
