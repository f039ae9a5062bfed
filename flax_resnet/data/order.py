"""The order of the training images, and what else of a batch is random before it is augmented.

The order is a pure function of the seed and the epoch, the rest one of the seed and the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .images import UNIFORMS_PER_CROP


@functools.lru_cache(maxsize=2)  # a batch may straddle two epochs
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of a training set's ``size`` images in an epoch, int64 ``[size]``."""
    order = np.random.default_rng([seed, epoch]).permutation(size)
    order.flags.writeable = False
    return order


@dataclass(frozen=True, eq=False)
class BalancedOrder:
    """An order of epochs in which every class has as many images, up to one.

    A class's images follow each other in rounds of all of them, each round in an order of its own:
    those of a small class come several times in an epoch, and those of a large one take turns from
    epoch to epoch. Like ``epoch_order`` it is a pure function of the seed and the epoch.

    Attributes:
        labels: Class of each training image, int ``[N]``.
    """

    labels: np.ndarray

    def __call__(self, seed: int, epoch: int, size: int) -> np.ndarray:
        """Return the indices of an epoch's images, int64 ``[size]``."""
        return self._cached(seed, epoch, size)

    @functools.cached_property
    def _cached(self) -> functools._lru_cache_wrapper[np.ndarray]:
        return functools.lru_cache(maxsize=2)(self._order)  # a batch may straddle two epochs

    @functools.cached_property
    def _members(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]

    def _order(self, seed: int, epoch: int, size: int) -> np.ndarray:
        every, rest = divmod(size, len(self._members))

        def drawn(number: int, epochs: int) -> int:
            """Images of a class in the first epochs; the rest goes to the classes in turn."""
            return epochs * every + max(-((number - epochs * rest) // len(self._members)), 0)

        chosen = []
        for number, members in enumerate(self._members):
            start, stop = drawn(number, epoch), drawn(number, epoch + 1)
            rounds = range(start // len(members), -(-stop // len(members)))
            line = [
                np.random.default_rng([seed, turn, number, 2]).permutation(members)
                for turn in rounds
            ]
            first = start - rounds.start * len(members)
            chosen.append(np.concatenate([members[:0], *line])[first : first + stop - start])
        order = np.random.default_rng([seed, epoch]).permutation(np.concatenate(chosen))
        order.flags.writeable = False
        return order


Order = Callable[[int, int, int], np.ndarray]
"""The order of an epoch by seed, epoch and number of images: ``epoch_order`` or another."""


def batch_indices(
    seed: int,
    step: int,
    batch_size: int,
    size: int,
    repeats: int = 1,
    order: Order = epoch_order,
) -> np.ndarray:
    """Return the indices of the images that a step trains on, int64 ``[batch_size]``.

    The orders of the epochs are joined end to end and cut into batches, so no image is dropped: a
    batch may take the end of one epoch and the start of the next.

    Args:
        seed: Seed of the order.
        step: Number of the step, from 0.
        batch_size: Number of images in the batch, copies included.
        size: Number of images in the training set.
        repeats: Copies of each image in a batch, each augmented differently (Hoffer et al. 2020,
            "Augment your batch"; Berman et al. 2019). A batch then has ``batch_size / repeats``
            different images. Copies are that far apart in the batch, so that mixup of neighbours
            mixes different images. In ``repeats`` epochs' worth of steps every image appears
            ``repeats`` times, as it does without copies.
        order: The order of an epoch.

    Raises:
        ValueError: The batch size is not divisible by ``repeats``.
    """
    if repeats > 1:
        if batch_size % repeats:
            raise ValueError(f"a batch of {batch_size} does not divide by {repeats} repeats")
        return np.tile(batch_indices(seed, step, batch_size // repeats, size, order=order), repeats)
    first = step * batch_size
    epochs = range(first // size, (first + batch_size - 1) // size + 1)
    line = np.concatenate([order(seed, epoch, size) for epoch in epochs])
    start = first - epochs.start * size
    return line[start : start + batch_size]


def mirrored(seed: int, step: int, indices: np.ndarray, size: int, repeats: int = 1) -> np.ndarray:
    """Return which images of a step are mirrored where they alternate, bool ``[batch_size]``.

    In the first epoch half of the images are, drawn by the seed, and in each later epoch those that
    were not in the one before (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3.6).

    Args:
        seed: Seed of the run.
        step: Number of the step, from 0.
        indices: Those of its images, ``batch_indices``.
        size: Number of images in the training set.
        repeats: Copies of each image in a batch.
    """
    different = len(indices) // repeats
    epochs = np.tile((step * different + np.arange(different)) // size, repeats)
    return (_first_mirrored(seed, size)[indices] + epochs) % 2 == 1


@functools.lru_cache(maxsize=1)
def _first_mirrored(seed: int, size: int) -> np.ndarray:
    """1 for the images that are mirrored in the first epoch, else 0, int64 ``[size]``."""
    stream = 3  # one that nothing else draws from; four numbers, as no other seed has
    return np.random.default_rng([seed, 0, 0, stream]).integers(0, 2, size)


def crop_uniforms(seed: int, step: int, batch_size: int) -> np.ndarray:
    """Return the random numbers in [0, 1) that determine the random crops of a step's images,
    float64 ``[batch_size, UNIFORMS_PER_CROP]``."""
    stream = 1  # 0 would repeat the numbers of epoch_order
    return np.random.default_rng([seed, step, stream]).random((batch_size, UNIFORMS_PER_CROP))
