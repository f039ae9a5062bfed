"""Tables for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from ..models import ModelSummary
from .evaluation import Evaluation

Scores = Mapping[str, float]


def results_table(title: str, rows: Mapping[str, tuple[int, Scores | None, Scores]]) -> Table:
    """Accuracy of checkpoints.

    Args:
      title: above the table.
      rows: by name ("best", "last"): step, validation and test scores, each with fractions
        ``top1``, ``top5`` and perhaps ``map``; None where nothing was kept for validation. Without
        any test scores there are no columns for them.
    """
    names = {"top1": "top-1", "top5": "top-5"}
    if any("map" in scores for _, *both in rows.values() for scores in both if scores):
        names["map"] = "mAP"
    table = Table(title=title, title_justify="left")
    table.add_column("checkpoint")
    table.add_column("step", justify="right")
    tested = any(test for _, _, test in rows.values())
    for split in ("val", "test") if tested else ("val",):
        for name in names.values():
            table.add_column(f"{split} {name}", justify="right")
    for name, (step, validation, test) in rows.items():
        cells = [
            f"{scores[key]:.2%}" if scores else "–"
            for scores in ((validation, test) if tested else (validation,))
            for key in names
        ]
        table.add_row(name, f"{step:,}", *cells)
    return table


def summary_table(title: str, summary: ModelSummary) -> Table:
    """Stages of a model with output shapes ``(H, W, C)`` and parameters."""
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    table.add_column("output", justify="right")
    table.add_column("parameters", justify="right")
    for stage in summary.stages:
        table.add_row(stage.name, "×".join(map(str, stage.output_shape)), f"{stage.parameters:,}")
    return table


def arrays_table(title: str, arrays: Mapping[str, tuple[tuple[int, ...], str]]) -> Table:
    """Arrays of a file by name, with shape and dtype."""
    table = Table(title=title, title_justify="left")
    table.add_column("array")
    table.add_column("shape", justify="right")
    table.add_column("dtype")
    for name, (shape, dtype) in arrays.items():
        table.add_row(name, "×".join(map(str, shape)) or "scalar", dtype)
    return table


def evaluation_tables(evaluation: Evaluation, most: int = 50) -> list[Table]:
    """What an evaluation found: the whole, and precision, recall and F1 of (at most) each class,
    those of the least F1 where there are more than ``most``."""
    whole = Table(title=evaluation.name, title_justify="left", show_header=False)
    whole.add_column("what")
    whole.add_column("value", justify="right")
    for name, value in {
        "images": f"{evaluation.count:,}",
        "top-1": f"{evaluation.top1:.2%}",
        "top-5": f"{evaluation.top5:.2%}",
        "loss": f"{evaluation.loss:.4f}",
        "calibration error": f"{evaluation.calibration_error:.2%}",
        f"temperature, fitted on {evaluation.temperature_from}": f"{evaluation.temperature:.3f}",
        "calibration error at that temperature": f"{evaluation.calibrated_error:.2%}",
    }.items():
        whole.add_row(name, value)
    classes = Table(title="classes", title_justify="left")
    classes.add_column("class")
    for column in ("images", "precision", "recall", "F1"):
        classes.add_column(column, justify="right")
    columns = (evaluation.support, evaluation.precision, evaluation.recall, evaluation.f1)
    rows = list(zip(evaluation.classes, *columns, strict=True))
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: row[-1])[:most]
        classes.title = f"the {most} classes of the least F1"
    for name, support, *shares in rows:
        classes.add_row(name, f"{support:,}", *(f"{share:.2%}" for share in shares))
    return [whole, classes]
