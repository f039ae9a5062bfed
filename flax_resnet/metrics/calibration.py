"""Calibration: how far probabilities agree with accuracy, and the temperature that improves it."""

import math

import numpy as np

from .probabilities import Floats, Labels, mean_softmax_cross_entropy

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
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, correct, bins) - np.bincount(index, confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Temperature that minimises the cross-entropy of ``logits / temperature`` (Guo et al. 2017).

    A temperature above 1 shows that the model was overconfident.

    Args:
        logits: ``[N, num_classes]``.
        labels: class of each image, ``[N]``.

    Returns:
        The temperature, from 1/20 to 20.
    """
    from scipy.optimize import minimize_scalar

    bound = math.log(MAX_TEMPERATURE)
    found = minimize_scalar(
        lambda log: mean_softmax_cross_entropy(logits, labels, math.exp(log)), (-bound, bound),
        bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(math.exp(found.x))
