"""Training of a row over its seeds, one run after another, each of which resumes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import open_dataset
from ..data.fingerprint import Fingerprint, differences, fingerprint, read_fingerprint
from ..errors import UserError
from ..text_files import read_run_file
from .records import CONFIG, RunRecord, differing_settings, histories_of, is_finished
from .rows import Row
from .scores import Mean, mean_of

if TYPE_CHECKING:
    from rich.console import Console

SPLITS = {"train": "training", "val": "validation", "test": "test"}
KINDS = [("val", "best"), ("val", "last"), ("test", "best"), ("test", "last")]


def train_row(
    row: Row,
    seeds: Sequence[int],
    folder: Path,
    *,
    data_dir: str | None = None,
    max_steps: int | None = None,
    console: "Console | None" = None,
    train: Callable[..., Any] | None = None,
) -> bool:
    """Train the seeds of a row in ``FOLDER/SEED``; finished runs are left as they are.

    Args:
        row: The row.
        seeds: The seeds.
        folder: The folder of the runs.
        data_dir: The folder of the data, as for ``data.dir``.
        max_steps: Stop each run after so many steps, to try the command out.
        console: Where progress is printed; by default the terminal.
        train: What trains a config; by default ``training.train``.

    Returns:
        Whether all seeds are done: False if a signal stopped a run, which resumes when this is
        called again.

    Raises:
        UserError: The data are missing, or a folder holds a run with other settings or of other
            data.
    """
    from ..training import train as default_train

    train = train or default_train
    data: Fingerprint | None = None
    for seed in seeds:
        config = row.config(seed, data_dir)
        workdir = folder / str(seed)
        config = dataclasses.replace(config, workdir=str(workdir), max_steps=max_steps)
        if is_finished(workdir):
            check_settings(row, workdir, seed, data_dir)
            stored = read_run_file(workdir, CONFIG).get("data.dir")
            if data_dir is not None and config.data.dir != stored:
                data = data or fingerprint(open_dataset(config.data, config.augment), data_dir)
                check_data(workdir, data)
            continue
        if not train(config, console).finished:
            return False
    return True


def check_settings(row: Row, workdir: Path, seed: int, data_dir: str | None = None) -> None:
    """Check that a run has the settings of a row.

    Raises:
        UserError: It has others.
    """
    if row.recipe is None and data_dir is None:  # settings of fine-tuning depend on its weights
        return
    found: Mapping[str, Any] = read_run_file(workdir, CONFIG)
    if differing := differing_settings(row, row.config(seed, data_dir), found):
        raise UserError(
            f"{workdir} holds a run with other settings than {row.name} with seed {seed} "
            f"({', '.join(differing)}): choose another --workdir."
        )


def check_data(workdir: Path, data: Fingerprint) -> None:
    """Check that a run was trained on some data, as far as it knows its own.

    Raises:
        UserError: It was trained on others.
    """
    before = read_fingerprint(workdir)
    if before is not None and (found := differences(before, data)):
        raise UserError(
            f"{workdir} holds a run that was trained on other data than those of --data-dir "
            f"({'; '.join(found)}): choose another --workdir."
        )


def judge(row: Row, records: Sequence[RunRecord]) -> tuple[Mean, str] | None:
    """Compare the mean accuracy of the seeds with what is asked of a row.

    It is that of the best checkpoint on the test images, or of the last one on the validation
    images, which would flatter the best.

    Args:
        row: The row.
        records: One of each seed.

    Returns:
        The mean, and ``"met"`` or ``"missed"``, with what was asked; None where nothing is asked,
        or the runs do not have that accuracy.
    """
    which = "best" if row.judged_by == "test" else "last"
    found = mean_accuracy(records, row.judged_by, which)
    if found is None or row.target is None:
        return None
    verdict = "met" if found.value >= row.target else "missed"
    return found, f"{verdict} (at least {row.target:.2%}, {SPLITS[row.judged_by]}, {which})"


def mean_accuracy(records: Sequence[RunRecord], split: str, which: str) -> Mean | None:
    """Return the mean of an accuracy over seeds; None where a run does not have it.

    Args:
        records: One of each seed.
        split: ``"val"`` or ``"test"``.
        which: ``"best"`` or ``"last"``.
    """
    held = [one.accuracy(split, which) for one in records]
    found = [value for value in held if value is not None]
    if not found or len(found) < len(held):
        return None
    return mean_of(found, records[0].about.get("images", {}).get(SPLITS[split]))


def summarize_row(
    row: Row, folder: Path, seeds: Sequence[int]
) -> tuple[list[str], list[list[str]], list[str]]:
    """Summarise the runs of a row that have done all their epochs.

    Args:
        row: The row.
        folder: The folder of its runs.
        seeds: Their seeds.

    Returns:
        The columns and rows of a table, and sentences on what was published and asked.
    """
    records = histories_of(folder, seeds)
    if not records:
        return [], [], [f"No run in {folder} has done all its epochs: there is nothing to compare."]
    means = {kind: mean_accuracy(records, *kind) for kind in KINDS}
    means = {kind: mean for kind, mean in means.items() if mean is not None}
    rows = [
        [f"seed {one.seed}", *(f"{one.accuracy(*kind) or 0:.2%}" for kind in means)]
        for one in records
    ]
    if len(records) > 1:
        rows.append(["mean ± standard error", *map(str, means.values())])
    published = {"paper": row.paper, "best public": row.public}
    sentences = [
        f"{name}: {one.accuracy:.2%} ({one.source})" for name, one in published.items() if one
    ]
    if judged := judge(row, records):
        sentences.append(f"{judged[0]}: {judged[1]}")
    return ["run", *(f"{SPLITS[split]}, {which}" for split, which in means)], rows, sentences
