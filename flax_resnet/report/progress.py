"""Progress of a training run: a bar on a terminal, lines of text elsewhere."""

import math
import time
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_SECONDS = 10.0  # between lines of text
SPARKLINE = 12  # characters
_BLOCKS = "▁▂▃▄▅▆▇█"


class Progress:
    """Context manager that shows the progress of a training run.

    It shows step, epoch, loss, accuracy, images per second, data wait and remaining time; on a
    terminal also the course of loss and accuracy. A notebook shows the bar too. Other text can be
    printed with ``console.print`` meanwhile.

    Args:
        console: where to show it.
        total_steps: number of steps of the whole run.
        start: number of steps that were done before this process began.
    """

    def __init__(self, console: Console, total_steps: int, start: int) -> None:
        self._console = console
        self._total, self._start = total_steps, start
        self._losses: list[float] = []
        self._accuracies: list[float] = []
        self._is_live = console.is_terminal or console.is_jupyter
        self._notebook: NotebookBar | None = None
        self._start_time = self._print_time = time.perf_counter()
        self._bar = RichProgress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal or console.is_jupyter,
            transient=True,
        )
        self._task = self._bar.add_task(
            "train", total=total_steps, completed=start, epoch="0", status="starting"
        )

    def __enter__(self) -> "Progress":
        if self._console.is_jupyter and not self._console.quiet:
            self._notebook = NotebookBar(self._total)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._notebook is not None:
            self._notebook.clear()

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
        speed = f"{rate:,.0f} images/s  data wait {wait:.0%}"
        status = f"loss {loss:.3f}  top-1 {top1:.1%}  {speed}"
        if self._is_live:
            self._losses.append(loss)
            self._accuracies.append(top1)
            if self._console.encoding.startswith("utf"):
                lines = sparkline(self._losses), sparkline(self._accuracies)
                status = f"loss {lines[0]} {loss:.3f}  top-1 {lines[1]} {top1:.1%}  {speed}"
        self._bar.update(self._task, completed=step, epoch=f"{epoch:.1f}", status=status)
        if self._notebook is not None:
            self._notebook.update(step, f"epoch {epoch:.1f}  {status}")
        now = time.perf_counter()
        if not self._is_live and now - self._print_time > PLAIN_SECONDS:
            self._print_time = now
            seconds_per_step = (now - self._start_time) / max(step - self._start, 1)
            remaining = _duration(seconds_per_step * (self._total - step))
            self._console.print(
                f"step {step}/{self._total}  epoch {epoch:.1f}  {status}  {remaining} to go"
            )


class NotebookBar:
    """A progress bar in a notebook, which needs no widgets.

    rich would draw with ipywidgets, and warn at every update where they are not installed.
    """

    def __init__(self, total: int) -> None:
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        self._total, self._html = total, HTML
        self._handle: Any = display(HTML(""), display_id=True)

    def update(self, step: int, status: str) -> None:
        """Show a number of steps and a text."""
        bar = f'<progress value="{step}" max="{self._total}" style="width:20em"></progress>'
        self._handle.update(
            self._html(f"<div>{bar} {step:,}/{self._total:,}  {escape(status)}</div>")
        )

    def clear(self) -> None:
        """Remove the bar."""
        self._handle.update(self._html(""))


def sparkline(values: Sequence[float], width: int = SPARKLINE) -> str:
    """Return the course of values as blocks, from the lowest to the highest of them.

    Args:
        values: The values, of which those that are not finite are left out; of more than ``width``
            each block is the mean of several.
        width: Most characters.
    """
    finite = [value for value in values if math.isfinite(value)]
    size = min(len(finite), width)
    ends = [index * len(finite) // max(size, 1) for index in range(size + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(ends)]
    if not means:
        return ""
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in means)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
