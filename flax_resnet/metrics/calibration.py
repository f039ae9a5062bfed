"""Calibration: how far probabilities agree with accuracy, and the temperature that improves it."""

import math

import numpy as np
import numpy.typing as npt

from ..config import LossName
from .probabilities import Floats, Labels, mean_loss

BINS = 15  # Guo et al. 2017
MAX_TEMPERATURE = 20.0


def expected_calibration_error(probabilities: Floats, labels: Labels, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015, Guo et al. 2017).

    Images are binned by the probability of their predicted class, in ``bins`` equal intervals of
    (0, 1]. The error is the mean over images of ``|accuracy - mean probability|`` of their bin.

    Args:
        probabilities: ``[N, num_classes]``.
        labels: class of each image, ``[N]``.
        bins: number of intervals.

    Returns:
        The error, from 0 to 1.
    """
    correct = probabilities.argmax(axis=1) == labels
    _, confidences, hits = reliability_bins(probabilities.max(axis=1), correct, bins)
    return float(np.abs(hits - confidences).sum() / len(labels))


def reliability_bins(
    confidence: Floats, correct: npt.NDArray[np.bool_], bins: int = BINS
) -> npt.NDArray[np.float64]:
    """Return the bins of a reliability diagram, equal intervals of (0, 1].

    Args:
        confidence: Probability of each image's predicted class, ``[N]``.
        correct: Whether that class is the true one, ``[N]``.
        bins: Number of intervals.

    Returns:
        ``[3, bins]``: by interval the number of images, the sum of their confidences, and the
        number of correct ones.
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    weights = (None, confidence, correct)
    return np.stack([np.bincount(index, one, bins).astype(np.float64) for one in weights])


def fit_temperature(logits: Floats, labels: Labels, loss: LossName = "softmax") -> float:
    """Temperature that minimises the loss of ``logits / temperature`` (Guo et al. 2017).

    A temperature above 1 shows that the model was overconfident.

    Args:
        logits: ``[N, num_classes]``.
        labels: class of each image, ``[N]``.
        loss: the loss that the model was trained with.

    Returns:
        The temperature, from 1/20 to 20.
    """
    from scipy.optimize import minimize_scalar

    bound = math.log(MAX_TEMPERATURE)
    found = minimize_scalar(
        lambda log: mean_loss(logits, labels, loss, math.exp(log)), (-bound, bound),
        bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(math.exp(found.x))
