"""Means of accuracies over seeds, with their standard errors."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Mean(NamedTuple):
    """A mean accuracy.

    Attributes:
        value: The mean, a fraction.
        error: Its standard error: of several seeds their standard deviation divided by the root of
            their number, of one seed that of a binomial proportion; None if it is not known.
        seeds: Number of seeds.
    """

    value: float
    error: float | None
    seeds: int

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {100 * self.error:.2f}"
        return f"{100 * self.value:.2f}{error}%"


def mean_of(accuracies: Sequence[float], images: int | None = None) -> Mean:
    """Return the mean over seeds.

    Args:
        accuracies: The accuracy of each seed, fractions; at least one.
        images: Number of images that each is of.
    """
    count = len(accuracies)
    value = statistics.fmean(accuracies)
    if count > 1:
        return Mean(value, statistics.stdev(accuracies) / math.sqrt(count), count)
    if not images:
        return Mean(value, None, count)
    return Mean(value, math.sqrt(value * (1 - value) / images), count)
