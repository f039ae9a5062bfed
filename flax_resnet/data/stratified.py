"""A part of a data set held out, with each class in proportion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# The splits belong to the data set, not to a run: another training seed must
# see the same validation images, or results could not be compared.
_SPLIT_SEED = 0

Positions = npt.NDArray[np.intp]


def stratified(labels: npt.NDArray[np.integer], held_out: int) -> tuple[Positions, Positions]:
    """Choose images to hold out, at random and always the same.

    Args:
        labels: integers [N].
        held_out: how many.

    Returns:
        The positions of the images that stay, and of those held out; each in order.

    Raises:
        ValueError: too few images for every class to be on both sides.
    """
    positions = np.arange(len(labels))
    if held_out == 0:
        return positions, positions[:0]
    # Here and not at the top: scikit-learn takes a second to import.
    from sklearn.model_selection import train_test_split

    kept, carved = train_test_split(
        positions, test_size=held_out, stratify=labels, random_state=_SPLIT_SEED
    )
    return np.sort(kept), np.sort(carved)
