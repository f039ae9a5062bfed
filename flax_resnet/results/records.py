"""The small record of a finished run, ``docs/results/ROW/SEED/``.

It holds the run's ``history.jsonl``, the settings that decide its numbers (``config.json``), and
``record.json``: where it was trained, and what it cost.
"""

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import EFFECTS, Config, flatten, unflatten, with_defaults
from ..data.fingerprint import read_fingerprint
from ..errors import UserError
from ..models import summarize
from ..output_files import write_json
from ..report import Entry, read_history
from ..report.environment import describe_environment, read_environment
from ..report.page import FOLDER
from ..text_files import parse_json, read_run_file
from ..transform import EvalTransform
from ..weights import build_model
from .rows import Row

HISTORY, CONFIG, RECORD = "history.jsonl", "config.json", "record.json"
_ENVIRONMENT = ("commit", "devices", "processes", "system", "processor", "earlier", "versions")


@dataclass(frozen=True)
class RunRecord:
    """What is known of a finished run.

    Attributes:
        seed: Its seed.
        settings: Settings that decide numbers or their rounding, by dotted name.
        history: Lines of its history.
        about: ``record.json``: the environment, ``images`` of each split, ``macs`` of a forward
            pass by the size of training images, ``parameters``, ``command``.
    """

    seed: int
    settings: Mapping[str, Any]
    history: Sequence[Entry]
    about: Mapping[str, Any]

    @property
    def end(self) -> Entry:
        """The last line of the history."""
        return self.history[-1]

    @property
    def evaluations(self) -> list[Entry]:
        """The lines of evaluations."""
        return [line for line in self.history if "val_top1" in line]

    def accuracy(self, split: str, which: str = "best") -> float | None:
        """Return a top-1 accuracy.

        Args:
            split: ``"train"`` (of the images as augmented, while the weights changed), ``"val"`` or
                ``"test"``.
            which: That of the ``"best"`` checkpoint by the validation images, or of the ``"last"``.
        """
        if split == "test":
            found: float | None = self.end.get("test_top1" if which == "best" else "last_test_top1")
            return found
        step = self.end["best_step"] if which == "best" else self.end["step"]
        lines = [line for line in self.evaluations if line["step"] == step]
        return lines[-1][f"{split}_top1"] if lines else None

    @property
    def images_per_second(self) -> float | None:
        """The median rate of training over the epochs."""
        rates = [line["images_per_second"] for line in self.evaluations]
        return statistics.median(rates) if any(rates) else None

    @property
    def seconds(self) -> float:
        """Seconds of the run, with pauses while it was stopped but not while it did not run."""
        return float(self.end["time"])

    @property
    def pflop(self) -> float | None:
        """10^15 operations of training: two for a multiply-accumulate, three forward passes' worth
        for each image; None where stages were frozen."""
        if self.settings["transfer.mode"] != "full":
            return None
        batch = self.settings["data.batch_size"]
        sizes = [(0, None), *self.settings["data.train_sizes"]]
        per_epoch = self.end["step"] / self.end["epoch"]
        steps = [min(math.ceil(epoch * per_epoch), self.end["step"]) for epoch, _ in sizes]
        steps.append(self.end["step"])
        total = sum(
            (last - first) * batch * self.about["macs"][str(size or "usual")]
            for (_, size), first, last in zip(sizes, steps[:-1], steps[1:], strict=True)
        )
        return 6 * total / 1e15


def differing_settings(row: Row, wanted: Config, found: Mapping[str, Any]) -> list[str]:
    """Return the settings that decide a run's numbers and are not those of a row.

    Args:
        row: The row.
        wanted: Its config for the run's seed.
        found: The settings of the run, by dotted name; an earlier version may lack some.
    """
    stored = with_defaults(found)
    return [
        name
        for name, value in flatten(wanted).items()
        if EFFECTS[name] == "numbers"
        and not (row.recipe is None and name == "transfer.weights")
        and stored[name] != value
    ]


def is_finished(folder: Path) -> bool:
    """Return whether a run has done all its epochs."""
    history = read_history(folder / HISTORY)
    if not history or "best_step" not in history[-1]:
        return False
    settings, end = read_run_file(folder, CONFIG), history[-1]
    # L-BFGS writes its iterations for epochs, and ends where it has converged.
    fits_head = settings.get("transfer.mode") == "head" and end["epoch"] == end["step"]
    return fits_head or end["epoch"] >= settings.get("epochs", math.inf) - 0.01


def histories_of(folder: Path, seeds: Sequence[int]) -> list[RunRecord]:
    """Return the histories of the finished runs in ``FOLDER/SEED``, as records without the rest."""
    runs = {seed: folder / str(seed) for seed in seeds}
    return [
        RunRecord(seed, {}, read_history(run / HISTORY), {})
        for seed, run in runs.items()
        if is_finished(run)
    ]


def record_of(folder: Path, command: str, commit: str | None = None) -> RunRecord:
    """Return the record of a finished run's folder.

    Args:
        folder: The run's folder.
        command: The command that anyone can repeat the run with.
        commit: The commit that it was trained with, where the run does not know it.

    Raises:
        UserError: The run is not finished, does not know its commit, or a file of it is missing or
            damaged.
    """
    if not is_finished(folder):
        raise UserError(f"{folder} is not a finished run: train it to its end first.")
    config = unflatten(read_run_file(folder, CONFIG))
    settings = {n: v for n, v in flatten(config).items() if EFFECTS[n] != "none"}
    settings["transfer.weights"] = Path(str(settings["transfer.weights"])).name
    stored = read_environment(folder / FOLDER)
    commit = commit or stored.get("commit")
    if commit is None:
        raise UserError(f"{folder} does not say with which commit it was trained: give --commit.")
    # Runs of earlier versions do not say all of it; then this process does.
    environment = {**describe_environment([]), **stored, "commit": commit}
    data = read_fingerprint(folder)
    transform = EvalTransform.from_json(read_run_file(folder, "preprocessing.json"))
    model = build_model(config.model, len(read_run_file(folder, "classes.json")))
    usual = transform.model_size
    sides = {"usual": (usual, usual) if usual else (transform.height, transform.width)}
    sides |= {str(size): (size, size) for _, size in config.data.train_sizes}
    channels = config.model.in_channels or transform.channels
    found = {
        name: summarize(model, (height, width, channels)) for name, (height, width) in sides.items()
    }
    about = {
        "command": command,
        **{name: environment[name] for name in _ENVIRONMENT if environment.get(name)},
        "images": {name: split.images for name, split in data.splits.items()} if data else {},
        "parameters": found["usual"].parameters,
        "macs": {name: one.macs for name, one in found.items()},
    }
    return RunRecord(config.seed, settings, read_history(folder / HISTORY), about)


def write_record(record: RunRecord, run: Path, target: Path) -> None:
    """Write a record beside the run's own history.

    Args:
        record: The record.
        run: The run's folder.
        target: The folder of the record.

    Raises:
        UserError: A file cannot be written.
    """
    write_json(target / CONFIG, dict(record.settings))
    write_json(target / RECORD, dict(record.about))
    shutil.copyfile(run / HISTORY, target / HISTORY)


def read_record(folder: Path) -> RunRecord:
    """Read a record that ``write_record`` wrote.

    Raises:
        UserError: It is not there or damaged.
    """
    try:
        settings, about = (
            parse_json((folder / name).read_text(encoding="utf-8")) for name in (CONFIG, RECORD)
        )
        return RunRecord(settings["seed"], settings, read_history(folder / HISTORY), about)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} is not a whole record of a run ({error}).") from error


def read_records(folder: Path) -> list[RunRecord]:
    """Read the records of a row, by seed; none if the folder does not exist."""
    found = [read_record(path.parent) for path in folder.glob(f"*/{RECORD}")]
    return sorted(found, key=lambda record: record.seed)
