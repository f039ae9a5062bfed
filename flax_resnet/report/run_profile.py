"""Where the time of a run went, by activity: ``report/profile.json``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..output_files import write_json
from ..text_files import read_if_present

FILE = "profile.json"

LABELS = {
    "input": "input: waiting for batches",
    "step": "steps",
    "evaluation": "evaluation",
    "checkpoint": "checkpoints",
    "compilation": "compilation of the step",
    "trace": "writing the trace",
}
"""The activities that are measured, in the order of the table."""

COLUMNS = ("activity", "seconds", "of the time", "count", "ms each")


@dataclass(frozen=True)
class RunProfile:
    """Time of a run, or of the part of it that one call trained.

    Attributes:
        steps: Number of steps that were measured.
        first: Number of the first of them, from 1.
        first_traced: Number of the first step of the trace, from 1.
        traced: Number of steps in the trace.
        seconds: Time from the start of training to the end.
        activities: Seconds and number of times of each activity of ``LABELS`` that took place.
    """

    steps: int
    first: int
    first_traced: int
    traced: int
    seconds: float
    activities: Mapping[str, tuple[float, int]]

    @property
    def title(self) -> str:
        """A heading for the table."""
        steps = "step" if self.steps == 1 else "steps"
        return f"time of {self.steps:,} {steps}, from step {self.first:,} on"

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of the table with the columns ``COLUMNS``; the last is the sum."""
        named = [
            (label, *self.activities[key])
            for key, label in LABELS.items()
            if key in self.activities
        ]
        rest = self.seconds - sum(seconds for _, seconds, _ in named)
        rows = [*named, ("all else", rest, 0), ("together", self.seconds, 0)]
        return [
            (
                label,
                f"{seconds:,.2f}",
                f"{seconds / max(self.seconds, 1e-9):.1%}",
                f"{count:,}" if count else "",
                f"{1000 * seconds / count:,.1f}" if count else "",
            )
            for label, seconds, count in rows
        ]


def write_profile(folder: Path, profile: RunProfile) -> None:
    """Write a profile into the folder of a run's page.

    Raises:
        UserError: The file cannot be written.
    """
    write_json(folder / FILE, asdict(profile))


def read_profile(folder: Path) -> RunProfile | None:
    """Read the profile in the folder of a run's page.

    Returns:
        The profile, or None if there is none.

    Raises:
        UserError: The file is damaged.
    """
    return read_if_present(folder / FILE, _from_json, "delete it")


def _from_json(fields: Any) -> RunProfile:
    activities = {
        key: (float(seconds), int(count))
        for key, (seconds, count) in fields.pop("activities").items()
    }
    return RunProfile(**fields, activities=activities)
