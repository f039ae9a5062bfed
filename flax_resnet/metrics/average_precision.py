"""Average precision, the measure of PASCAL VOC's classification challenge."""

import numpy as np
import numpy.typing as npt


def average_precision(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the precision-recall curve of one class, as VOC counts it since 2010.

    Images are ranked by score. At each recall that is reached, precision is the best at that recall
    or a higher one, so that the curve never rises (Everingham et al., "The PASCAL VOC 2012
    Development Kit", section 3.4.1). Images of equal score are reached together, so that the order
    they come in does not matter.

    Args:
      scores: ``[N]``, higher for more likely.
      positive: bool ``[N]``: whether the image shows the class.

    Returns:
      From 0 to 1; NaN where no image shows the class.
    """
    values = np.asarray(scores, np.float64)
    truth = np.asarray(positive, bool)
    if not truth.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    # The last image of each run of equal scores.
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    found = np.cumsum(truth[order])[ends]
    precision = found / (ends + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(found, prepend=0) / truth.sum()
    return float(gained @ envelope)


def mean_average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean of :func:`average_precision` over the classes that some image shows.

    Args:
      scores: ``[N, classes]``, such as logits; only their order within a class counts.
      labels: ``[N, classes]`` of 0 and 1.

    Returns:
      From 0 to 1; NaN where no image shows any class.
    """
    columns = zip(np.asarray(scores).T, np.asarray(labels).T > 0, strict=True)
    each = [average_precision(score, truth) for score, truth in columns if truth.any()]
    return float(np.mean(each)) if each else float("nan")
