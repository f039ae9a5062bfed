"""What logits and labels come to: accuracy, a confusion matrix, figures by class, calibration."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..metrics.calibration import calibration_error, cross_entropy, fit_temperature, softmax

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TOP_K = 5


@dataclass(frozen=True)
class Evaluation:
    """How good predictions are. Accuracies and the like are fractions.

    Attributes:
      name: of the set that was evaluated.
      classes: names, in the order of the logits.
      count: images.
      loss: mean cross-entropy, in nats.
      top1, top5: share of the images whose class is the first guess, or among the first five.
      confusion: images by true class (row) and predicted class (column), ``[K][K]``.
      precision, recall, f1: by class; 0 where nothing was predicted or nothing is there, as
        scikit-learn's ``zero_division=0``.
      support: images of each class.
      calibration_error: expected calibration error, 15 bins.
      temperature: what to divide logits by for the least loss on ``temperature_from``.
      calibrated_error: calibration error at that temperature.
      temperature_from: ``"validation"``, or ``"the same images"``, which flatters a little.
    """

    name: str
    classes: tuple[str, ...]
    count: int
    loss: float
    top1: float
    top5: float
    confusion: tuple[tuple[int, ...], ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]
    calibration_error: float
    temperature: float
    calibrated_error: float
    temperature_from: str


def evaluate_logits(
    name: str,
    logits: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Evaluation:
    """Compare predictions with the truth.

    Args:
      name: of the set, for tables and pictures.
      logits: float ``[N, K]``, N at least 1.
      labels: int ``[N]``.
      classes: names of the K classes.
      validation: logits and labels of other images, to fit the temperature on.
    """
    count, size = logits.shape
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP_K]
    hits = order == labels[:, None]
    confusion = np.zeros((size, size), np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    right, support, guessed = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    fitted_on = (logits, labels) if validation is None else validation
    temperature = fit_temperature(*fitted_on)
    return Evaluation(
        name=name,
        classes=tuple(classes),
        count=count,
        loss=cross_entropy(logits, labels),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(1).mean()),
        confusion=tuple(map(tuple, confusion.tolist())),
        precision=tuple((right / np.maximum(guessed, 1)).tolist()),
        recall=tuple((right / np.maximum(support, 1)).tolist()),
        f1=tuple((2 * right / np.maximum(guessed + support, 1)).tolist()),
        support=tuple(support.tolist()),
        calibration_error=calibration_error(softmax(logits), labels),
        temperature=temperature,
        calibrated_error=calibration_error(softmax(logits, temperature), labels),
        temperature_from="the same images" if validation is None else "validation",
    )


def write_evaluation(path: Path, evaluation: "DataclassInstance") -> None:
    """Write figures as JSON; those of :class:`Evaluation` :func:`read_evaluation` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(evaluation)) + "\n", encoding="utf-8")


def read_evaluation(path: Path) -> Evaluation | None:
    """What :func:`write_evaluation` wrote, or None where there is no such file.

    Raises:
      UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["confusion"] = tuple(map(tuple, fields["confusion"]))
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return Evaluation(**(fields | lists))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): delete it and evaluate again."
        ) from error
