"""Average precision, the measure of PASCAL VOC's classification challenge.

It is not scikit-learn's ``average_precision_score``, which does not make the precision-recall curve
monotone.
"""

import numpy as np
import numpy.typing as npt


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the precision-recall curve of one class, as VOC defines it since 2010.

    Images are ranked by score. The precision at each recall is the best precision at that recall
    or a higher one, so that the curve never rises (Everingham et al., "The PASCAL VOC 2012
    Development Kit", section 3.4.1). Images with equal scores enter the ranking together, so that
    the order of the images does not matter.

    Args:
        scores: ``[N]``, higher for more likely.
        positive: bool ``[N]``: whether the image shows the class.

    Returns:
        The area, from 0 to 1; NaN if no image shows the class.
    """
    values = np.asarray(scores, np.float64)
    truth = np.asarray(positive, bool)
    if not truth.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    # The last image of each group of equal scores.
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    true_positives = np.cumsum(truth[order])[ends]
    precision = true_positives / (ends + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall_steps = np.diff(true_positives, prepend=0) / truth.sum()
    return float(recall_steps @ envelope)


def mean_average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean of ``average_precision`` over the classes that at least one image shows.

    Args:
        scores: ``[N, num_classes]``, such as logits; only their order within a class counts.
        labels: ``[N, num_classes]`` of 0 and 1.

    Returns:
        The mean, from 0 to 1; NaN if no image shows any class.
    """
    columns = zip(np.asarray(scores).T, np.asarray(labels).T > 0, strict=True)
    each = [average_precision(score, truth) for score, truth in columns if truth.any()]
    return float(np.mean(each)) if each else float("nan")
