"""Trackers of experiments, which get the lines of a run's history as it is written.

The history is the truth. A tracker that is opened gets the lines that it lacks, so that the curves
of a resumed run continue, and those of a run that is tracked from its middle are whole. Each
tracker works in a thread of its own: one that fails or hangs is given up with a note, and training
goes on.
"""

import csv
import importlib.util
import json
import math
import os
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError
from ..output_files import open_text, write_json
from ..paths import process_folder
from ..storage import is_remote, read_bytes
from .history import Entry

PATIENCE = 60.0  # seconds that the end of a run waits for each tracker
STATE = "trackers.json"  # in a run's folder: what a resumed run needs to know of each tracker
FILES = (STATE, "metrics.csv", "tensorboard")  # all that trackers write there of a run
_PROJECT = "flax_resnet"
_WRITES_FILES = ("tensorboard", "csv")  # into the run's folder


class Tracker(Protocol):
    """A keeper of curves. Both methods may raise anything."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with.

    Attributes:
        workdir: The run's folder.
        settings: The run's settings by dotted name.
        state: What the tracker keeps between resumptions; it may change it.
    """

    workdir: Path
    settings: Mapping[str, Any]
    state: dict[str, Any]


@dataclass(frozen=True)
class Trackers:
    """The trackers of a run; with none, nothing happens."""

    threads: Sequence["_Thread"] = ()

    def append(self, entry: Entry) -> None:
        """Log a line of the history; this does not wait for the trackers."""
        for thread in self.threads:
            thread.lines.put(entry)

    def close(self) -> None:
        """Wait until the trackers have what was logged, but not for long."""
        for thread in self.threads:
            thread.close()


def check_trackers(names: Sequence[str], workdir: Path) -> None:
    """Raise a UserError where the package of a tracker is not installed, or it writes files into
    a run's folder that is in object storage."""
    for name in names:
        if name in _WRITES_FILES and is_remote(workdir):
            raise UserError(
                f"--track {name} writes files as it goes, and --workdir {workdir} is in object "
                "storage: leave it out, or name a local --workdir.",
                exit_code=2,
            )
        package = _TRACKERS[name][0]
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f'--track {name} needs a package: pip install "flax-resnet[{name}]".', exit_code=2
            )


def open_trackers(
    names: Sequence[str],
    workdir: Path,
    settings: Mapping[str, Any],
    past: Sequence[Entry],
    note: Callable[[str], None],
) -> Trackers:
    """Open trackers.

    Args:
        names: Those of ``--track``.
        workdir: The run's folder.
        settings: The run's settings by dotted name.
        past: The lines of the history so far.
        note: Gets a sentence about a tracker that is given up.
    """
    return Trackers([_Thread(name, workdir, settings, past, note) for name in dict.fromkeys(names)])


@dataclass(eq=False)
class _Thread:
    """A tracker in a thread of its own."""

    name: str
    workdir: Path
    settings: Mapping[str, Any]
    past: Sequence[Entry]
    note: Callable[[str], None]
    lines: "queue.SimpleQueue[Entry | None]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"track-{self.name}")
        self.thread.start()

    def close(self) -> None:
        self.lines.put(None)
        self.thread.join(PATIENCE)
        if self.thread.is_alive():
            self.note(f"{self.name} does not answer: its curves lack the last values.")

    def _run(self) -> None:
        try:
            state = _read_state(self.workdir).get(self.name, {})
            tracker = _TRACKERS[self.name][1](Opening(self.workdir, self.settings, state))
            self._keep(state)
            for entry in self.past:
                self._log(tracker, state, entry)
            while (line := self.lines.get()) is not None:
                self._log(tracker, state, line)
            tracker.close()
        except BaseException as error:  # whatever a tracker raises, SystemExit included
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.note(f"{self.name} is given up, training goes on ({reason}).")

    def _log(self, tracker: Tracker, state: dict[str, Any], entry: Entry) -> None:
        tests = "best_step" in entry  # the last line, of the step of the one before it
        position = [entry["step"], int(tests)]
        if position <= state.get("logged", [0, -1]):
            return
        values = {  # without the digest of the state and the checksum of the line
            name: float(value)
            for name, value in entry.items()
            if name != "step" and isinstance(value, Real) and math.isfinite(value)
        }
        tracker.log(entry["step"], values)
        state["logged"] = position
        self._keep(state)

    def _keep(self, state: dict[str, Any]) -> None:
        with _STATE_LOCK:
            write_json(self.workdir / STATE, _read_state(self.workdir) | {self.name: state})


_STATE_LOCK = threading.Lock()


def _read_state(workdir: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(read_bytes(workdir / STATE))
        return state
    except (OSError, ValueError):
        return {}


class _TensorBoard:
    """Event files in ``tensorboard/``, written anew from the history when a run is resumed."""

    def __init__(self, opening: Opening) -> None:
        from tensorboardX import SummaryWriter

        opening.state.pop("logged", None)
        folder = opening.workdir / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        # A TensorBoard that has read the former files drops what it has.
        self._writer = SummaryWriter(str(folder), purge_step=0)
        self._writer.add_text("settings", f"```\n{json.dumps(opening.settings, indent=2)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            split, _, metric = name.partition("_")
            tag = f"{metric}/{split}" if split in ("train", "val", "test") else name
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Csv:
    """``metrics.csv``: a row for each value, written anew when a run is resumed."""

    def __init__(self, opening: Opening) -> None:
        opening.state.pop("logged", None)
        self._path = opening.workdir / "metrics.csv"
        with open_text(self._path) as file:
            csv.writer(file).writerow(("step", "metric", "value"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        with self._path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows((step, name, value) for name, value in values.items())

    def close(self) -> None:
        pass


class _MLflow:
    """A run in MLflow's experiment ``flax_resnet``, or that of ``MLFLOW_EXPERIMENT_NAME``."""

    def __init__(self, opening: Opening) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client, state = MlflowClient(), opening.state
        if not self._continues(state.get("run")):
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            identifier = experiment and experiment.experiment_id
            identifier = identifier or self._client.create_experiment(name)
            run = self._client.create_run(identifier, run_name=opening.workdir.name)
            state.clear()
            state["run"] = run.info.run_id
            params = [Param(key, str(value)) for key, value in opening.settings.items()]
            for first in range(0, len(params), 100):  # the most that it takes at once
                self._client.log_batch(state["run"], params=params[first : first + 100])
        self._run = state["run"]

    def _continues(self, run: str | None) -> bool:
        """Whether the run is there; it is then running again."""
        from mlflow.exceptions import MlflowException

        try:
            if run is None or self._client.get_run(run).info.lifecycle_stage != "active":
                return False
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self._client.update_run(run, status="RUNNING")
        return True

    def log(self, step: int, values: Mapping[str, float]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # A run killed before it had noted this step has its values already.
        fresh = {
            name: value
            for name, value in values.items()
            if all(old.step != step for old in self._client.get_metric_history(self._run, name))
        }
        metrics = [Metric(name, value, now, step) for name, value in fresh.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Wandb:
    """A run in Weights & Biases' project ``flax_resnet``, or that of ``WANDB_PROJECT``."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        state = opening.state
        state.setdefault("run", wandb.util.generate_id())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=opening.workdir.name,
            id=state["run"],
            resume="allow",
            config=dict(opening.settings),
            dir=str(process_folder() if is_remote(opening.workdir) else opening.workdir),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """A run in trackio's project ``flax_resnet``."""

    def __init__(self, opening: Opening) -> None:
        import trackio

        state = opening.state
        # Its runs are known by their names, and another run may be in a folder of this name.
        state.setdefault("run", f"{opening.workdir.name}-{secrets.token_hex(3)}")
        self._trackio = trackio
        trackio.init(
            project=_PROJECT, name=state["run"], resume="allow", config=dict(opening.settings)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


# The package that each needs, and what opens it.
_TRACKERS: dict[str, tuple[str | None, Callable[[Opening], Tracker]]] = {
    "tensorboard": ("tensorboardX", _TensorBoard),
    "wandb": ("wandb", _Wandb),
    "mlflow": ("mlflow", _MLflow),
    "trackio": ("trackio", _Trackio),
    "csv": (None, _Csv),
}
