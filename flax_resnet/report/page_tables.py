"""Rows of the tables of a run's page, from its history and its evaluation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import Evaluation, MultiLabelEvaluation
from .history import Entry

MAX_CLASSES = 2000  # rows of the table of classes
MAX_PAIRS = 15  # rows of the most confused classes
_MAX_ENTRIES = 60  # rows of the history

Table = tuple[Sequence[str], Sequence[Any]]
"""Names of the columns, and rows of cells: text, None for a missing value, or ``number``s."""


def number(value: float, text: str) -> dict[str, Any]:
    """Return a cell that is sorted by its value."""
    return {"value": value, "text": text}


def with_error(fraction: float, count: int) -> tuple[str, str]:
    """Return a fraction of ``count`` images, and its standard error in percentage points.

    The standard error is that of a binomial proportion, ``sqrt(p (1 - p) / n)``. Where all or none
    of the images count it would be 0, whatever their number: there Wilson's 95% interval stands.
    """
    if count <= 0:
        return f"{fraction:.2%}", ""
    if 0 < fraction < 1:
        return f"{fraction:.2%}", f"± {100 * math.sqrt(fraction * (1 - fraction) / count):.2f}"
    reach = 1.96**2 / (count + 1.96**2)
    low, high = (1 - reach, 1.0) if fraction == 1 else (0.0, reach)
    return f"{fraction:.2%}", f"95%: {low:.1%} to {high:.1%}"


def split_history(history: Sequence[Entry]) -> tuple[list[Entry], Entry | None, Entry | None]:
    """Return the lines of evaluations, the last line of a finished run, and the evaluation of the
    best checkpoint."""
    evaluated = [entry for entry in history if "train_loss" in entry]
    end = next((entry for entry in reversed(history) if "best_step" in entry), None)
    if end is not None:
        best = next((entry for entry in evaluated if entry["step"] == end["best_step"]), None)
        return evaluated, end, best
    key = f"val_{next(iter(accuracies(evaluated)))}"
    scored = [entry for entry in evaluated if entry.get(key) is not None]
    return evaluated, end, max(scored, key=lambda entry: entry[key], default=None)


def accuracies(evaluated: Sequence[Entry]) -> dict[str, str]:
    """Return key and name of each accuracy to show, first that which chooses the checkpoint."""
    if any("val_map" in entry for entry in evaluated):
        return {"map": "mAP"}  # top-1 says little about images with any number of classes
    return {"top1": "top-1", "top5": "top-5"}


def run_tiles(
    history: Sequence[Entry],
    evaluation: Evaluation | MultiLabelEvaluation | None,
    counts: Mapping[str, int],
) -> list[tuple[str, str, str]]:
    """Return the main figures of a run: name, value, and standard error or another detail.

    Args:
        history: The lines of the history.
        evaluation: The evaluation that the page shows.
        counts: Number of images of each split, where known.
    """
    evaluated, end, best = split_history(history)
    last = evaluated[-1] if evaluated else None
    key, name = next(iter(accuracies(evaluated).items()))
    rates = sorted(entry["images_per_second"] for entry in evaluated)
    tiles = []
    for title, split, entry, short in (
        (f"test {name}", "test", end, "test"),
        (f"validation {name}, best", "validation", best, "val"),
        (f"training {name}, last", "train", last, "train"),
    ):
        if entry is not None and entry.get(f"{short}_{key}") is not None:
            count = 0 if key == "map" or short == "train" else counts.get(split, 0)
            tiles.append((title, *with_error(entry[f"{short}_{key}"], count)))
    if evaluation is not None:
        (title, score, error), *others = evaluation_tiles(evaluation)
        if end is None:  # the history of a run that was killed has no such score
            tiles.append((f"evaluated {title}", score, error))
        tiles += others
    if last:
        tiles += [("epochs", f"{last['epoch']:g}", ""), ("time", duration(last["time"]), "")]
    if rates:
        tiles.append(("images per second", f"{rates[len(rates) // 2]:,.0f}", ""))
    return tiles


def evaluation_tiles(
    evaluation: Evaluation | MultiLabelEvaluation,
) -> list[tuple[str, str, str]]:
    """Return the main figures of an evaluation, that which chooses the checkpoint first."""
    if isinstance(evaluation, MultiLabelEvaluation):
        mean = evaluation.mean_average_precision
        shown = [f1 for f1, images in zip(evaluation.f1, evaluation.support, strict=True) if images]
        return [
            ("mAP", "–" if mean is None else f"{mean:.2%}", ""),
            ("macro F1", f"{sum(shown) / len(shown):.2%}" if shown else "–", ""),
            ("loss", f"{evaluation.loss:.4f}", ""),
            ("images evaluated", f"{evaluation.count:,}", ""),
        ]
    tiles = [("top-1", *with_error(evaluation.top1, evaluation.count))]
    if len(evaluation.classes) > 5:
        tiles.append(("top-5", *with_error(evaluation.top5, evaluation.count)))
    macro = {"recall": "recall", "f1": "F1"}
    tiles += [(f"macro {name}", f"{evaluation.macro[key]:.2%}", "") for key, name in macro.items()]
    tiles.append(("calibration error", f"{evaluation.calibration_error:.2%}", ""))
    tiles.append(("images evaluated", f"{evaluation.count:,}", ""))
    return tiles


def results_table(history: Sequence[Entry]) -> Table | None:
    """Return scores of the best and the last checkpoint; None for a run that has not finished."""
    evaluated, end, best = split_history(history)
    if end is None:
        return None
    names = accuracies(evaluated)
    columns = ["checkpoint", "step", "epoch"]
    for split in ("val", "test"):
        columns += [f"{split} {name}" for name in ("loss", *names.values())]
    rows = []
    last = evaluated[-1] if evaluated else None
    for name, entry, test in (
        ("best", best, "test"),
        ("last", last, "test" if last is best else "last_test"),
    ):
        if entry is None:
            continue
        rows.append([
            name, f"{entry['step']:,}", f"{entry['epoch']:g}",
            loss(entry, "val_loss"), *(percent(entry, f"val_{key}") for key in names),
            loss(end, f"{test}_loss"), *(percent(end, f"{test}_{key}") for key in names),
        ])  # fmt: skip
    return columns, rows


def class_table(evaluation: Evaluation | MultiLabelEvaluation) -> Table:
    """Return images, precision, recall and F1 of the classes, and the average precision of those
    of which an image can have any number."""
    columns = ["class", "images", "precision", "recall", "F1"]
    fractions = [evaluation.precision, evaluation.recall, evaluation.f1]
    if isinstance(evaluation, MultiLabelEvaluation):
        columns.append("average precision")
        fractions.append(evaluation.average_precision)  # type: ignore[arg-type]
    rows = [
        [name, number(support, f"{support:,}"), *(_fraction(value) for value in values)]
        for name, support, *values in zip(
            evaluation.classes, evaluation.support, *fractions, strict=True
        )
    ]
    return columns, rows[:MAX_CLASSES]


def _fraction(value: float | None) -> dict[str, Any] | None:
    return None if value is None else number(value, f"{value:.1%}")


def confused_pairs(evaluation: Evaluation) -> list[tuple[int, int, int]]:
    """Return the mistakes that are most frequent: true class, predicted class, images."""
    found = [
        (true, predicted, count)
        for true, row in enumerate(evaluation.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    found.sort(key=lambda cell: (-cell[2], -cell[2] / evaluation.support[cell[0]]))
    return found[:MAX_PAIRS]


def pair_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows of the table of the most confused classes, with the cells they show."""
    names = evaluation.classes
    return [
        {
            "link": (true, predicted),
            "cells": [
                names[true],
                names[predicted],
                f"{count:,}",
                f"{count / evaluation.support[true]:.1%}",
            ],
        }
        for true, predicted, count in confused_pairs(evaluation)
    ]


def calibration_table(evaluation: Evaluation) -> Table:
    """Return the calibration error as trained and at the fitted temperature."""
    rows = [
        ("as trained", "1", f"{evaluation.calibration_error:.2%}"),
        (
            f"fitted on {evaluation.temperature_from}",
            f"{evaluation.temperature:.3f}",
            f"{evaluation.calibrated_error:.2%}",
        ),
    ]
    return ("temperature", "logits divided by", "expected calibration error"), rows


def history_table(history: Sequence[Entry]) -> Table | None:
    """Return evaluations at equal distances, the last among them; None without any."""
    evaluated, _, _ = split_history(history)
    if not evaluated:
        return None
    stride = math.ceil(len(evaluated) / _MAX_ENTRIES)
    key, name = next(iter(accuracies(evaluated).items()))
    has_processes = any("slowest_host" in entry for entry in evaluated)
    processes = ("host", "device") if has_processes else ()
    rows = [
        (
            f"{entry['epoch']:g}", f"{entry['step']:,}", loss(entry, "train_loss"),
            percent(entry, "train_top1"), loss(entry, "val_loss"), percent(entry, f"val_{key}"),
            f"{entry['learning_rate']:.3g}", f"{entry['images_per_second']:,.0f}",
            f"{entry['data_wait']:.0%}",
            *(slowest(entry, one) for one in processes),
        )
        for entry in evaluated[::-1][::stride][::-1]
    ]  # fmt: skip
    columns = ("epoch", "step", "train loss", "train top-1", "val loss", f"val {name}",
               "learning rate", "images/s", "data wait")  # fmt: skip
    return columns + tuple(f"slowest {one}" for one in processes), rows


def slowest(entry: Entry, name: str) -> str:
    """Return which process took longest, and how long the median took."""
    if f"slowest_{name}" not in entry:
        return ""
    worst, median = (1e3 * entry[f"{one}{name}_seconds"] for one in ("slowest_", ""))
    return f"process {entry[f'slowest_{name}']}: {worst:.1f} ms (median {median:.1f} ms)"


def percent(entry: Entry | None, key: str) -> str | None:
    """Return a fraction of a line of the history as text, or None if it has none."""
    return f"{entry[key]:.2%}" if entry and entry.get(key) is not None else None


def loss(entry: Entry | None, key: str) -> str | None:
    """Return a loss of a line of the history as text, or None if it has none."""
    return f"{entry[key]:.4f}" if entry and entry.get(key) is not None else None


def duration(seconds: float) -> str:
    """Return a time as text, such as ``3 min 20 s``."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
