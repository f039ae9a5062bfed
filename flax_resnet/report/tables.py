"""Tables for the terminal.

Every name that a user or a file chose is put into a ``Text``, which rich prints as it is: in plain
strings rich would take ``[new] cats`` for markup and ``:cat:`` for an emoji.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..metrics import Evaluation, MultiLabelEvaluation

if TYPE_CHECKING:
    from ..models import ModelSummary  # would import JAX

Scores = Mapping[str, float]


def results_table(title: str, rows: Mapping[str, tuple[int, Scores | None, Scores]]) -> Table:
    """Table of the accuracy of checkpoints.

    Args:
        title: title of the table.
        rows: by the checkpoint's name ("best", "last"): its step, validation scores (None without
            validation images) and test scores. Scores are the fractions ``top1`` and ``top5``, and
            ``map`` if images can have any number of classes. Columns of test scores are left out
            if there are none.
    """
    names = {"top1": "top-1", "top5": "top-5"}
    if any("map" in scores for _, *both in rows.values() for scores in both if scores):
        names["map"] = "mAP"
    has_test = any(test for _, _, test in rows.values())
    splits = ("val", "test") if has_test else ("val",)
    columns = [f"{split} {name}" for split in splits for name in names.values()]
    table = _table(title, ["checkpoint"], ["step", *columns])
    for name, (step, *scores) in rows.items():
        cells = [
            _percent(split[key] if split else None)
            for split in scores[: len(splits)]
            for key in names
        ]
        table.add_row(Text(name), f"{step:,}", *cells)
    return table


def summary_table(title: str, summary: "ModelSummary") -> Table:
    """Table of a model's stages, with output shapes ``(H, W, C)`` and parameters."""
    table = _table(title, ["stage"], ["output", "parameters"])
    for stage in summary.stages:
        shape = "×".join(map(str, stage.output_shape))
        table.add_row(Text(stage.name), shape, f"{stage.parameters:,}")
    return table


def arrays_table(title: str, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> Table:
    """Table of a file's arrays, given as name -> (shape, dtype)."""
    table = _table(title, ["array"], ["shape"])
    table.add_column("dtype")
    for name, (shape, dtype) in arrays.items():
        table.add_row(Text(name), "×".join(map(str, shape)) or "scalar", dtype)
    return table


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Table of cells of text, of which the first column is names."""
    table = _table(title, [columns[0]], [])
    for name in columns[1:]:
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def evaluation_tables(
    evaluation: Evaluation | MultiLabelEvaluation, max_classes: int = 50
) -> list[Table]:
    """Table of an evaluation's scores, and table of its classes.

    Args:
        evaluation: the evaluation.
        max_classes: number of rows of the second table. If there are more classes, those with the
            lowest F1, or the lowest average precision, are shown.
    """
    if isinstance(evaluation, MultiLabelEvaluation):
        return [
            _scores_table(evaluation.name, {
                "images": f"{evaluation.count:,}",
                "mean average precision": _percent(evaluation.mean_average_precision),
                "loss": f"{evaluation.loss:.4f}",
            }),
            _classes_table(evaluation, ("precision", "recall", "F1", "average precision"),
                           (evaluation.precision, evaluation.recall, evaluation.f1,
                            evaluation.average_precision), max_classes),
        ]  # fmt: skip
    columns = (evaluation.precision, evaluation.recall, evaluation.f1)
    return [
        _scores_table(evaluation.name, {
            "images": f"{evaluation.count:,}",
            "top-1": f"{evaluation.top1:.2%}",
            "top-5": f"{evaluation.top5:.2%}",
            **{f"macro {name}": _percent(evaluation.macro[key]) for key, name in
               {"precision": "precision", "recall": "recall", "f1": "F1"}.items()},
            "loss": f"{evaluation.loss:.4f}",
            "calibration error": f"{evaluation.calibration_error:.2%}",
            f"temperature, fitted on {evaluation.temperature_from}":
                f"{evaluation.temperature:.3f}",
            "calibration error at that temperature": f"{evaluation.calibrated_error:.2%}",
        }),
        _classes_table(evaluation, ("precision", "recall", "F1"), columns, max_classes),
    ]  # fmt: skip


def _scores_table(title: str, scores: Mapping[str, str]) -> Table:
    table = _table(title, ["score"], ["value"])
    table.show_header = False
    for name, value in scores.items():
        table.add_row(name, value)
    return table


def _classes_table(
    evaluation: Evaluation | MultiLabelEvaluation,
    names: Sequence[str],
    columns: Sequence[Sequence[float | None]],
    max_classes: int,
) -> Table:
    """Table of the classes, with the images and the given fractions of each.

    Classes are chosen by the last column; None counts as 1.
    """
    title = "classes"
    rows = list(zip(evaluation.classes, evaluation.support, *columns, strict=True))
    if len(rows) > max_classes:
        rows = sorted(rows, key=lambda row: 1.0 if row[-1] is None else row[-1])[:max_classes]
        title = f"the {max_classes} classes with the lowest {names[-1]}"
    table = _table(title, ["class"], ["images", *names])
    for name, support, *fractions in rows:
        table.add_row(Text(name), f"{support:,}", *map(_percent, fractions))
    return table


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """An empty table with columns of names, which are shown whole, and of numbers."""
    table = Table(title=Text(title, "table.title"), title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
