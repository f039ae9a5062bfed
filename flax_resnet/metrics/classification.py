"""Evaluation of a set of images that have one class each.

The formulas stand here rather than scikit-learn's because they are a line each, and importing
``sklearn.metrics`` takes a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..config import LossName
from .calibration import expected_calibration_error, fit_temperature
from .probabilities import Floats, Labels, mean_loss, probabilities_of


@dataclass(frozen=True)
class Evaluation:
    """Accuracy, confusion matrix, precision and recall by class, and calibration of a set.

    Accuracies and all other ratios are fractions.

    Attributes:
        name: name of the set.
        classes: names of the classes, in the order of the logits.
        count: number of images.
        loss: mean loss of the kind that the model was trained with, in nats.
        top1: fraction of the images whose class has the highest logit.
        top5: fraction of the images whose class is among the five highest logits.
        confusion: number of images by true class (row) and predicted class (column), ``[K][K]``.
        precision: precision of each class; 0 for a class that was never predicted.
        recall: recall of each class; 0 for a class without images.
        f1: harmonic mean of precision and recall of each class; 0 for a class that was never
            predicted and has no images.
        support: number of images of each class.
        calibration_error: expected calibration error with 15 bins.
        temperature: number that logits are divided by for the least loss on
            ``temperature_from``.
        calibrated_error: expected calibration error at that temperature.
        temperature_from: ``"validation"``, or ``"the same images"``, which is slightly optimistic.
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

    @property
    def macro(self) -> dict[str, float]:
        """Unweighted means of ``"precision"``, ``"recall"`` and ``"f1"`` over the classes that have
        images or were predicted."""
        predicted = np.array(self.confusion).sum(0)
        counted = (predicted > 0) | (np.array(self.support) > 0)
        return {
            name: float(np.array(getattr(self, name))[counted].mean())
            for name in ("precision", "recall", "f1")
        }


def balanced_class_weights(labels: Labels, num_classes: int) -> np.ndarray:
    """The weight of each class that gives all classes the same sum; the mean over the images is 1.

    Args:
        labels: Class of each image, int ``[N]``.
        num_classes: Number of classes.

    Returns:
        ``N / (classes with images * images of the class)``, 0 for a class without images, ``[K]``.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    return np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 0.0)


def evaluate_logits(
    name: str,
    logits: Floats,
    labels: Labels,
    classes: Sequence[str],
    validation: tuple[Floats, Labels] | None = None,
    loss: LossName = "softmax",
) -> Evaluation:
    """Evaluate the logits of a set of images against its labels.

    Args:
        name: name of the set, for tables and plots.
        logits: ``[N, num_classes]``, N at least 1.
        labels: class of each image, ``[N]``.
        classes: names of the classes.
        validation: logits and labels of other images, which the temperature is fitted on.
        loss: the loss that the model was trained with.
    """
    confusion = confusion_matrix(labels, logits.argmax(1), logits.shape[1])
    correct, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = precision_recall_f1(correct, support, predicted)
    temperature = fit_temperature(*((logits, labels) if validation is None else validation), loss)
    calibrated = probabilities_of(logits, loss, temperature)
    return Evaluation(
        name=name,
        classes=tuple(classes),
        count=len(labels),
        **classification_scores(logits, labels, loss),
        confusion=tuple(map(tuple, confusion.tolist())),
        precision=tuple(precision.tolist()),
        recall=tuple(recall.tolist()),
        f1=tuple(f1.tolist()),
        support=tuple(support.tolist()),
        calibration_error=expected_calibration_error(probabilities_of(logits, loss), labels),
        temperature=temperature,
        calibrated_error=expected_calibration_error(calibrated, labels),
        temperature_from="the same images" if validation is None else "validation",
    )


def classification_scores(
    logits: Floats, labels: Labels, loss: LossName = "softmax"
) -> dict[str, float]:
    """Mean ``loss`` (in nats), ``top1`` and ``top5`` accuracy of a set.

    Args:
        logits: ``[N, num_classes]``, N at least 1.
        labels: class of each image, ``[N]``.
        loss: the loss that the model was trained with.
    """
    ranks = label_ranks(logits, labels)
    return {
        "loss": mean_loss(logits, labels, loss),
        "top1": float((ranks < 1).mean()),
        "top5": float((ranks < 5).mean()),
    }


def label_ranks(logits: Floats, labels: Labels) -> np.ndarray:
    """Number of classes that are predicted before the true one: 0 for a correct prediction.

    Classes with equal logits are ranked by their index, as in ``accuracy.top_k_hits``. No
    prediction is correct if a logit is NaN.

    Args:
        logits: ``[N, num_classes]``.
        labels: class of each image, ``[N]``.

    Returns:
        int ``[N]``.
    """
    true = logits[np.arange(len(labels)), labels][:, None]
    index = np.arange(logits.shape[1])
    ahead = ~(logits <= true)  # also for NaN
    return (ahead | ((logits == true) & (index < labels[:, None]))).sum(1)


def confusion_matrix(labels: Labels, predicted: Labels, num_classes: int) -> np.ndarray:
    """Number of images by true class (row) and predicted class (column), ``[K, K]``."""
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def precision_recall_f1(
    correct: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of each class, ``[K]`` each; a ratio of 0 to 0 is 0.

    Args:
        correct: Number of images of each class that were predicted as such, ``[K]``.
        support: Number of images of each class, ``[K]``.
        predicted: Number of images that were predicted as each class, ``[K]``.
    """
    return (
        correct / np.maximum(predicted, 1),
        correct / np.maximum(support, 1),
        2 * correct / np.maximum(predicted + support, 1),
    )
