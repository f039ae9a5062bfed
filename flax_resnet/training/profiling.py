"""Measurement of a run: a trace of some of its steps, and the time that each activity takes."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
from rich.console import Console
from rich.text import Text

from ..errors import UserError, first_line
from ..report.page import FOLDER
from ..report.run_profile import COLUMNS, RunProfile, write_profile
from ..report.tables import text_table
from .messages import note

TRACE = "trace"  # the folder of the trace in that of the run
WARM_UP = 2  # steps before the trace, which are slower than others

_SHARES = {
    "step": "steps",
    "input": "waiting for input",
    "evaluation": "evaluation",
    "checkpoint": "saving",
    "compilation": "compiling",
}

_Item = TypeVar("_Item")


class Profiler:
    """Times of a run by activity, and a trace of some of its steps.

    With steps to trace, each step is waited for, so that no activity overlaps with another.
    Without, steps run while the host prepares the next ones, and their time is that for which the
    host waits for them.
    """

    def __init__(self, steps: int | None, workdir: Path, last_step: int, console: Console) -> None:
        """Start measuring.

        Args:
            steps: Number of steps to trace; None for no profile.
            workdir: The run's folder.
            last_step: The step after which the run stops.
            console: Where the table is printed at the end.
        """
        self._wanted, self._workdir = steps or 0, workdir
        self._last_step, self._console = last_step, console
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._start, self._first, self._traced = 0, 0, 0  # indices of steps, and a number
        self._is_tracing = False
        self._profile: RunProfile | None = None
        self._began = time.perf_counter()

    @contextmanager
    def time(self, activity: str, times: int = 1) -> Iterator[None]:
        """Add the time of the body to an activity of ``report.run_profile.LABELS``.

        Args:
            activity: The activity.
            times: How often it takes place in the body.
        """
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self._seconds[activity] = self._seconds.get(activity, 0.0) + spent
            self._counts[activity] = self._counts.get(activity, 0) + times

    def seconds(self, *activities: str) -> float:
        """Return the seconds that activities took so far, together."""
        return sum(self._seconds.get(one, 0.0) for one in activities)

    def waits(self, batches: Iterable[_Item]) -> Iterator[_Item]:
        """Iterate over batches and count the time of waiting for them."""
        iterator = iter(batches)
        while True:
            with self.time("input"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def step(self, index: int, compiled: Callable[..., Any], *arguments: Any) -> Any:
        """Call the compiled step ``index``, from 0, and return its outputs."""
        if not self._wanted:
            with self.time("step"):
                return compiled(*arguments)
        done = self._counts.get("step", 0)
        if not done:
            self._start = index
            self._first = index + (WARM_UP if self._last_step - index > WARM_UP else 0)
        if index == self._first:
            self._start_trace()
        with self.time("step"), jax.profiler.StepTraceAnnotation("train", step_num=index):
            outputs = jax.block_until_ready(compiled(*arguments))
        if self._is_tracing:
            self._traced += 1
            if self._traced == self._wanted:
                self._stop_trace()
        return outputs

    def goodput(self) -> str:
        """Return a line on which activities the time since the start of the measurement went to."""
        total = time.perf_counter() - self._began
        shares = {text: self.seconds(key) / total for key, text in _SHARES.items()}
        shares["all else"] = 1 - sum(shares.values())
        listed = ", ".join(f"{share:.0%} {text}" for text, share in shares.items())
        return f"{total:,.0f} s since this start: {listed}."

    def save(self) -> None:
        """End the measurement, and write it for the run's page."""
        if not self._wanted or self._profile is not None:
            return
        self._stop_trace()
        self._profile = RunProfile(
            steps=self._counts.get("step", 0),
            first=self._start + 1,
            first_traced=self._first + 1,
            traced=self._traced,
            seconds=time.perf_counter() - self._began,
            activities={key: (value, self._counts[key]) for key, value in self._seconds.items()},
        )
        if jax.process_index() == 0 and self._profile.steps:
            write_profile(self._workdir / FOLDER, self._profile)

    def close(self) -> None:
        """End the measurement, and print it."""
        self.save()
        found = self._profile
        if found is None:
            return
        if not found.steps:
            note(self._console, "No step was left to profile: the run had ended before.")
            return
        self._console.print(text_table(found.title, COLUMNS, found.rows()))
        if found.traced:
            last = found.first_traced + found.traced - 1
            text = f"The trace of steps {found.first_traced:,} to {last:,} is in"
            self._console.print(
                Text(
                    f"{text} {self._workdir / TRACE}: open its .trace.json.gz at ui.perfetto.dev, "
                    "or the folder with XProf."
                )
            )

    def _start_trace(self) -> None:
        if jax.process_index():
            return
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Python's calls would hide the rest, and slow it down
        try:
            jax.profiler.start_trace(self._workdir / TRACE, profiler_options=options)
        except RuntimeError as error:
            raise UserError(
                f"--profile: the trace cannot be started ({error}); leave it out, or stop the "
                "other profiler of this process."
            ) from error
        self._is_tracing = True

    def _stop_trace(self) -> None:
        if not self._is_tracing:
            return
        self._is_tracing = False
        try:
            with self.time("trace"):
                jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:  # a full disk must not end the run
            self._traced = 0
            note(self._console, f"The trace could not be written: {first_line(error)}.")
