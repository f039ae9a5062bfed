"""Whether probabilities mean what they say, and the temperature that mends them."""

import math

import numpy as np
import numpy.typing as npt

BINS = 15  # Guo et al. 2017

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def softmax(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities ``[N, K]`` of ``logits / temperature``."""
    scaled = logits.astype(np.float64) / temperature
    shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def cross_entropy(logits: Floats, labels: Labels, temperature: float = 1.0) -> float:
    """Mean of ``-log p(label)`` in nats, computed from logits ``[N, K]`` without overflow."""
    scaled = logits.astype(np.float64) / temperature
    largest = scaled.max(axis=1)
    total = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
    return float(np.mean(total - scaled[np.arange(len(labels)), labels]))


def calibration_error(probabilities: Floats, labels: Labels, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015, Guo et al. 2017), from 0 to 1.

    Images are binned by the probability of their predicted class, in ``bins`` equal parts of (0,
    1]; the error is the mean over images of |accuracy - mean probability| of their bin.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    part = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(part, right, bins) - np.bincount(part, confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The number to divide logits by so that their cross-entropy is least (Guo et al. 2017).

    Above 1, the model was too sure of itself. Searched from 1/20 to 20.
    """
    from scipy.optimize import minimize_scalar

    bound = math.log(20)
    found = minimize_scalar(
        lambda log: cross_entropy(logits, labels, math.exp(log)), (-bound, bound),
        bounds=(-bound, bound), method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(math.exp(found.x))
