"""Probabilities and mean losses of a whole set of images, in float64.

``losses.py`` defines the same losses in JAX, for one example each. SciPy is imported where it is
used, because importing it takes 0.3 s and a training run does not need it before its end.
"""

import numpy as np
import numpy.typing as npt

from ..config import LossName

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


def probabilities_of(
    logits: Floats, loss: LossName = "softmax", temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    """Probability of each class, from the logits of a model.

    Args:
        logits: ``[N, num_classes]``.
        loss: the loss that the model was trained with. Probabilities sum to 1 over the classes
            after ``"softmax"``. Each class has one of its own after ``"sigmoid"`` and
            ``"one_vs_all"``, whose losses are least where it is the frequency of the class.
        temperature: number that logits are divided by.

    Returns:
        ``[N, num_classes]``.
    """
    from scipy.special import expit, softmax

    scaled = logits.astype(np.float64) / temperature
    return softmax(scaled, axis=1) if loss == "softmax" else expit(scaled)


def mean_loss(
    logits: Floats, labels: Labels, loss: LossName = "softmax", temperature: float = 1.0
) -> float:
    """Mean loss of a set of images that have one class each, in nats.

    Args:
        logits: ``[N, num_classes]``.
        labels: class of each image, ``[N]``.
        loss: ``"softmax"``, else the binary cross-entropy.
        temperature: number that logits are divided by.
    """
    mean = mean_softmax_cross_entropy if loss == "softmax" else mean_sigmoid_cross_entropy
    return mean(logits, labels, temperature)


def mean_softmax_cross_entropy(logits: Floats, labels: Labels, temperature: float = 1.0) -> float:
    """Mean over a set of ``-log p(label)``, in nats.

    Args:
        logits: ``[N, num_classes]``.
        labels: class of each image, ``[N]``.
        temperature: number that logits are divided by.
    """
    from scipy.special import log_softmax

    scaled = logits.astype(np.float64) / temperature
    return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())


def mean_sigmoid_cross_entropy(
    logits: Floats, labels: npt.NDArray[np.number], temperature: float = 1.0
) -> float:
    """Mean of the binary cross-entropy over a set of images and their classes, in nats.

    Args:
        logits: ``[N, num_classes]``.
        labels: class of each image, ``[N]``, or 0 or 1 for each class of each image,
            ``[N, num_classes]``.
        temperature: number that logits are divided by.
    """
    values = logits.astype(np.float64) / temperature
    if labels.ndim == 1:
        positive = values[np.arange(len(labels)), labels].sum()
    else:
        positive = np.sum(values * labels)
    return float((np.logaddexp(0, values).sum() - positive) / values.size)
