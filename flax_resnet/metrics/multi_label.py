"""Evaluation of a set of images that can have any number of classes each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .average_precision import average_precision, mean_average_precision
from .classification import precision_recall_f1
from .probabilities import mean_sigmoid_cross_entropy


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Loss, and precision, recall and average precision by class, of a set of images.

    Attributes:
        name: name of the set.
        classes: names of the classes, in the order of the logits.
        count: number of images.
        loss: binary cross-entropy, in nats, mean over images and classes.
        mean_average_precision: mean over the classes that at least one image shows, from 0 to 1;
            None if no image shows any.
        average_precision: average precision of each class, as VOC defines it since 2010; None for
            a class that no image shows.
        precision: precision of each class, which is predicted where its probability is above 1/2;
            0 for a class that is never predicted.
        recall: recall of each class; 0 for a class that no image shows.
        f1: harmonic mean of precision and recall of each class; 0 for a class that was never
            predicted and that no image shows.
        support: number of images that show each class.
    """

    name: str
    classes: tuple[str, ...]
    count: int
    loss: float
    mean_average_precision: float | None
    average_precision: tuple[float | None, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    support: tuple[int, ...]


def evaluate_multi_label(
    name: str, logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> MultiLabelEvaluation:
    """Evaluate the logits of a set of images against its labels.

    Args:
        name: name of the set, for tables.
        logits: float ``[N, num_classes]``, N at least 1.
        labels: ``[N, num_classes]`` of 0 and 1.
        classes: names of the classes.
    """
    positive = labels > 0
    each = [average_precision(*column) for column in zip(logits.T, positive.T, strict=True)]
    predicted, support = logits > 0, positive.sum(0)
    correct = (predicted & positive).sum(0)
    precision, recall, f1 = precision_recall_f1(correct, support, predicted.sum(0))
    return MultiLabelEvaluation(
        name=name,
        classes=tuple(classes),
        count=len(logits),
        loss=mean_sigmoid_cross_entropy(logits, labels),
        mean_average_precision=_nan_to_none(mean_average_precision(logits, positive)),
        average_precision=tuple(map(_nan_to_none, each)),
        precision=tuple(precision.tolist()),
        recall=tuple(recall.tolist()),
        f1=tuple(f1.tolist()),
        support=tuple(support.tolist()),
    )


def _nan_to_none(value: float) -> float | None:
    return None if np.isnan(value) else value  # JSON has no NaN
