"""Comparison of runs: scores, settings that differ, and paired tests on the same images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import with_defaults
from ..data.fingerprint import Fingerprint, read_fingerprint
from ..errors import UserError
from ..metrics import Evaluation
from ..text_files import read_run_file
from .evaluation import read_evaluation
from .history import Entry, read_history
from .outcomes import Outcomes, read_outcomes
from .page import EVALUATION, FOLDER, OUTCOMES
from .page_tables import split_history, with_error
from .pictures import data_uri
from .rendering import write_html

RESAMPLES = 10_000
MOST_PHOTOS = 120
_OWN = ("workdir", "transfer.weights_digest")  # settings that differ between any two runs


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """What a comparison reads of a run.

    Attributes:
        name: Name of its folder, or its path where two have the same.
        settings: Those of ``config.json``.
        classes: Names of the classes.
        history: Lines of the history that an evaluation wrote.
        top1: Accuracy on the evaluated images, None if the run has no evaluation.
        count: Number of these.
        outcomes: The outcome of each of them, None if they were not kept.
        fingerprint: That of the data, None if it is not known.
    """

    name: str
    settings: Mapping[str, Any]
    classes: Sequence[str]
    history: Sequence[Entry]
    top1: float | None
    count: int
    outcomes: Outcomes | None
    fingerprint: Fingerprint | None


@dataclass(frozen=True)
class PairedTest:
    """Two runs on the same images.

    Attributes:
        images: Number of images that both were evaluated on, with the same label.
        first_only: Number of images that only the first run predicts correctly.
        second_only: Number of images that only the second run predicts correctly.
        difference: Accuracy of the second run less that of the first, on these images.
        low, high: Its 95% interval by the paired bootstrap.
        p_value: Of McNemar's exact test that both are right equally often.
    """

    images: int
    first_only: int
    second_only: int
    difference: float
    low: float
    high: float
    p_value: float


def read_compared_runs(folders: Sequence[Path]) -> list[ComparedRun]:
    """Read the runs to compare.

    Raises:
        UserError: Fewer than two folders, one of them twice, or one that is no run's.
    """
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise UserError("Name two runs or more, each once.", exit_code=2)
    short = Counter(folder.resolve().name for folder in folders)
    runs = []
    for folder in folders:
        name = folder.resolve().name
        evaluation = read_evaluation(folder / FOLDER / EVALUATION)
        evaluated, _, _ = split_history(read_history(folder / "history.jsonl"))
        runs.append(
            ComparedRun(
                name=name if short[name] == 1 else str(folder),
                settings=read_run_file(folder, "config.json"),
                classes=read_run_file(folder, "classes.json"),
                history=evaluated,
                top1=evaluation.top1 if isinstance(evaluation, Evaluation) else None,
                count=0 if evaluation is None else evaluation.count,
                outcomes=read_outcomes(folder / FOLDER / OUTCOMES),
                fingerprint=read_fingerprint(folder),
            )
        )
    return runs


def paired_test(first: np.ndarray, second: np.ndarray, seed: int = 0) -> PairedTest:
    """Compare which of the same images two runs predict correctly.

    The p value is that of McNemar's exact test: among the images that only one run predicts
    correctly, each run has as many as a fair coin gives. The interval is the 2.5th to 97.5th
    percentile of the difference over ``RESAMPLES`` bootstrap samples of images; these are drawn by
    how many images of each kind a sample has, which has the same distribution.

    Args:
        first: Whether each image is predicted correctly by the first run, bool ``[N]``.
        second: The same of the second run.
        seed: Seed of the bootstrap.
    """
    from scipy.stats import binomtest

    count = len(first)
    if not count:
        raise UserError("There are no images that both runs were evaluated on.")
    only = int((first & ~second).sum()), int((second & ~first).sum())
    shares = [only[0] / count, only[1] / count]
    drawn = np.random.default_rng(seed).multinomial(
        count, [*shares, max(0.0, 1 - sum(shares))], RESAMPLES
    )
    low, high = np.percentile((drawn[:, 1] - drawn[:, 0]) / count, (2.5, 97.5))
    p_value = binomtest(only[0], sum(only), 0.5).pvalue if sum(only) else 1.0
    return PairedTest(
        count, *only, (only[1] - only[0]) / count, float(low), float(high), float(p_value)
    )


def same_images(first: ComparedRun, second: ComparedRun) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the images that both runs were evaluated on, in the same order.

    Files are the same where their contents are, also in another folder; other images where their
    data sets are the same. Images whose labels differ are left out.
    """
    if first.outcomes is None or second.outcomes is None:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    known = {key: row for row, key in enumerate(_keys(first, first.outcomes))}
    pairs = [
        (known[key], row) for row, key in enumerate(_keys(second, second.outcomes)) if key in known
    ]
    rows = np.array(pairs, np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _keys(run: ComparedRun, outcomes: Outcomes) -> list[tuple[str, str, int]]:
    """Return for each image what identifies it, its label, and how often both came before."""
    split = run.fingerprint.splits.get(outcomes.split) if run.fingerprint else None
    files = split.files if split else {}
    whole = split.digest if split else str(run.settings.get("data.name"))
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for name, label in zip(outcomes.names, outcomes.labels.tolist(), strict=True):
        image = files.get(name) or f"{whole} {name}"
        key = image, str(run.classes[label])
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def setting_differences(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs, with the value in each run."""
    # A run of an earlier version lacks settings, which had their default; one that weights were
    # converted to has only those of the model.
    settings = [
        with_defaults(run.settings) if "data.name" in run.settings else run.settings for run in runs
    ]
    names = sorted({name for one in settings for name in one} - set(_OWN))
    found = []
    for name in names:
        values = [str(one.get(name)) for one in settings]
        if len(set(values)) > 1:
            found.append((name, values))
    return found


def run_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, ...]]:
    """Return a row for each run: name, top-1 with its standard error, images, epochs, time."""
    rows: list[tuple[str, ...]] = []
    for run in runs:
        last = run.history[-1] if run.history else None
        rows.append(
            (
                run.name,
                "–" if run.top1 is None else " ".join(with_error(run.top1, run.count)),
                f"{run.count:,}" if run.count else "–",
                f"{last['epoch']:g}" if last else "–",
                f"{last['time']:,.0f} s" if last else "–",
            )
        )
    return rows


def paired_rows(runs: Sequence[ComparedRun]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return a row for each other run against the first, and sentences on what is missing."""
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for other in runs[1:]:
        first, second = same_images(runs[0], other)
        if not len(first):
            notes.append(
                f"{runs[0].name} and {other.name} have no images in common whose outcomes were "
                "kept: evaluate both on the same images with flax-resnet report --evaluate."
            )
            continue
        assert runs[0].outcomes is not None and other.outcomes is not None
        found = paired_test(runs[0].outcomes.correct[first], other.outcomes.correct[second])
        rows.append(
            (
                f"{other.name} − {runs[0].name}",
                f"{found.images:,}",
                f"{100 * found.difference:+.2f} points",
                f"{100 * found.low:+.2f} to {100 * found.high:+.2f}",
                f"{found.first_only:,}",
                f"{found.second_only:,}",
                f"{found.p_value:.3g}",
            )
        )
    return rows, notes


RUN_COLUMNS = ("run", "top-1", "images", "epochs", "time")
TEST_COLUMNS = (
    *("difference", "same images", "of accuracy", "95% interval"),
    *("only the first right", "only the second right", "p (McNemar)"),
)


def write_comparison(path: Path, runs: Sequence[ComparedRun]) -> None:
    """Write a page that compares runs.

    Raises:
        UserError: The file cannot be written.
    """
    rows, notes = paired_rows(runs)
    differences = setting_differences(runs)
    photos = _disagreements(runs)
    content = {
        "title": " and ".join(run.name for run in runs),
        "sections": [
            ("section-runs", "Runs"),
            ("section-curves", "Curves"),
            ("section-settings", "Settings"),
            ("section-photos", "Photos"),
        ],
        "runs": (RUN_COLUMNS, run_rows(runs)),
        "tests": (TEST_COLUMNS, rows),
        "notes": notes,
        "has_curves": any(run.history for run in runs),
        "settings": (
            ("setting", *(run.name for run in runs)),
            [(name, *values) for name, values in differences],
        ),
        "has_photos": bool(photos),
    }
    data = {
        "classes": [],
        "runs": [{"name": run.name, "entries": run.history} for run in runs],
        "photos": photos,
    }
    write_html(path, "compare.html.jinja", ("charts.js", "compare.js"), data, content)


def _disagreements(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return the photos that the first run and another predict differently, where one is right;
    those first of which the wrong run is the most certain."""
    found = []
    for other in runs[1:]:
        a, b = runs[0].outcomes, other.outcomes
        if a is None or b is None:
            continue
        for i, j in zip(*(rows.tolist() for rows in same_images(runs[0], other)), strict=True):
            picture = a.pictures.get(i) or b.pictures.get(j)
            if picture is None or bool(a.correct[i]) == bool(b.correct[j]):
                continue
            guesses = [
                (
                    run.name,
                    run.classes[int(outcomes.top[row, 0])],
                    round(float(outcomes.probabilities[row, 0]), 4),
                    bool(outcomes.correct[row]),
                )
                for run, outcomes, row in ((runs[0], a, i), (other, b, j))
            ]
            certainty = max(guess[2] for guess in guesses if not guess[3])
            found.append(
                (
                    certainty,
                    {
                        "n": a.names[i],
                        "true": runs[0].classes[int(a.labels[i])],
                        "guesses": guesses,
                        "src": data_uri(picture),
                    },
                )
            )
    found.sort(key=lambda entry: -entry[0])
    return [photo for _, photo in found[:MOST_PHOTOS]]
