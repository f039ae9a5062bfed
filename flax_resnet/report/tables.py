"""Tables for the terminal."""

from collections.abc import Mapping

from rich.table import Table

from ..models import ModelSummary

Scores = Mapping[str, float]


def results_table(title: str, rows: Mapping[str, tuple[int, Scores | None, Scores]]) -> Table:
    """Accuracy of checkpoints.

    Args:
      title: above the table.
      rows: by name ("best", "last"): step, validation and test scores, each with fractions
        ``top1``, ``top5`` and perhaps ``map``; None where nothing was kept for validation.
    """
    names = {"top1": "top-1", "top5": "top-5"}
    if any("map" in scores for _, *both in rows.values() for scores in both if scores):
        names["map"] = "mAP"
    table = Table(title=title, title_justify="left")
    table.add_column("checkpoint")
    table.add_column("step", justify="right")
    for split in ("val", "test"):
        for name in names.values():
            table.add_column(f"{split} {name}", justify="right")
    for name, (step, validation, test) in rows.items():
        cells = [
            f"{scores[key]:.2%}" if scores else "–"
            for scores in (validation, test)
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
