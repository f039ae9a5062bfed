"""Progress of a training run: a bar on a terminal, lines of text elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0  # between lines of text


class Progress:
    """Context manager that shows the progress of a training run.

    It shows step, epoch, loss, accuracy, images per second, data wait and remaining time. Other
    text can be printed with ``console.print`` meanwhile.

    Args:
        console: where to show it.
        total_steps: number of steps of the whole run.
        start: number of steps that were done before this process began.
    """

    def __init__(self, console: Console, total_steps: int, start: int) -> None:
        self._console = console
        self._total, self._start = total_steps, start
        self._start_time = self._print_time = time.perf_counter()
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
        """Show where the run is after ``step`` steps.

        Args:
            step: number of steps done.
            epoch: number of epochs done.
            loss: mean training loss since the last evaluation.
            top1: training accuracy since the last evaluation.
            rate: images per second.
            wait: fraction of the time that was spent waiting for data.
        """
        status = f"loss {loss:.3f}  top-1 {top1:.1%}  {rate:,.0f} images/s  data wait {wait:.0%}"
        self._bar.update(self._task, completed=step, epoch=f"{epoch:.1f}", status=status)
        now = time.perf_counter()
        if not self._console.is_terminal and now - self._print_time > PLAIN_SECONDS:
            self._print_time = now
            seconds_per_step = (now - self._start_time) / max(step - self._start, 1)
            remaining = _duration(seconds_per_step * (self._total - step))
            self._console.print(
                f"step {step}/{self._total}  epoch {epoch:.1f}  {status}  {remaining} to go"
            )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
