"""Figures of a run whose images have any number of classes: mean average precision."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from ..metrics.average_precision import average_precision, mean_average_precision


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """How well images are ranked, class by class. Fractions.

    Attributes:
      name: of the set that was evaluated.
      classes: names, in the order of the logits.
      count: images.
      loss: binary cross-entropy, in nats, mean over images and classes.
      mean_average_precision: over the classes that some image shows; None where none shows any.
      average_precision: by class, as VOC counts it since 2010; None where no image shows it.
      support: images that show each class.
    """

    name: str
    classes: tuple[str, ...]
    count: int
    loss: float
    mean_average_precision: float | None
    average_precision: tuple[float | None, ...]
    support: tuple[int, ...]


def evaluate_multi_label(
    name: str, logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> MultiLabelEvaluation:
    """Compare logits ``[N, K]``, N at least 1, with labels ``[N, K]`` of 0 and 1."""
    values, shown = logits.astype(np.float64), labels > 0
    found = [average_precision(*column) for column in zip(values.T, shown.T, strict=True)]
    return MultiLabelEvaluation(
        name=name,
        classes=tuple(classes),
        count=len(values),
        loss=float(np.mean(np.logaddexp(0, values) - values * labels)),
        mean_average_precision=_or_none(mean_average_precision(values, shown)),
        average_precision=tuple(map(_or_none, found)),
        support=tuple(shown.sum(0).tolist()),
    )


def multi_label_tables(evaluation: MultiLabelEvaluation, most: int = 50) -> list[Table]:
    """The whole, and (at most) each class, those of the least average precision where there are
    more than ``most``."""
    whole = Table(title=evaluation.name, title_justify="left", show_header=False)
    whole.add_column("what")
    whole.add_column("value", justify="right")
    whole.add_row("images", f"{evaluation.count:,}")
    whole.add_row("mean average precision", _percent(evaluation.mean_average_precision))
    whole.add_row("loss", f"{evaluation.loss:.4f}")
    classes = Table(title="classes", title_justify="left")
    classes.add_column("class")
    for column in ("images", "average precision"):
        classes.add_column(column, justify="right")
    columns = (evaluation.classes, evaluation.support, evaluation.average_precision)
    rows = list(zip(*columns, strict=True))
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: 1.0 if row[-1] is None else row[-1])[:most]
        classes.title = f"the {most} classes of the least average precision"
    for label, support, precision in rows:
        classes.add_row(label, f"{support:,}", _percent(precision))
    return [whole, classes]


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value  # JSON has no NaN


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
