"""A prepared TFDS set as a ``Dataset``: small images in memory, photos decoded batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flax_resnet.data.datasets import Dataset, Split
from flax_resnet.data.images import SPLITS, ImageFiles, LabeledFiles, SplitRatios, check_ratios
from flax_resnet.data.pipeline import Source
from flax_resnet.data.tfds.reader import Prepared, PreparedSplit
from flax_resnet.errors import UserError

MAX_BYTES_IN_MEMORY = 4 << 30
"""A set with more bytes of pixels than this is decoded batch by batch."""

# The splits belong to the data set and not to a run, see ``builtin``.
_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Subset:
    """Selected images of a prepared split.

    Attributes:
        whole: The split.
        indices: Indices of the selected images, ``[N]``.
    """

    whole: PreparedSplit
    indices: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> npt.NDArray[Any]:
        """Labels of the selected images.

        Raises:
            UserError: A label is -1.
        """
        labels = self.whole.labels[self.indices]
        self._check(labels)
        return labels

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one label, as in the whole split."""
        return self.whole.label_shape

    def read(self, index: int) -> tuple[bytes, npt.ArrayLike]:
        """Return the bytes of an image's file, and its label.

        Raises:
            UserError: The label is -1.
        """
        content, label = self.whole.read(int(self.indices[index]))
        self._check(label)
        return content, label

    def name_of(self, index: int) -> str:
        """Return a description of where an image is, with its number in the whole split."""
        return self.whole.name_of(int(self.indices[index]))

    def _check(self, labels: npt.ArrayLike) -> None:
        # A split without any label has been detected when the set was opened.
        if np.asarray(labels).min(initial=0) < 0:
            raise UserError(
                f"some images of {self.whole.name} in {self.whole.folder} have no label (-1): "
                "prepare the set without them, or choose another set"
            )


def load_prepared(
    prepared: Prepared,
    stream: Callable[[LabeledFiles], ImageFiles],
    *,
    validation: float = 0.1,
    ratios: SplitRatios = (8, 1, 1),
) -> Dataset:
    """Make a ``Dataset`` of a prepared set.

    Images of one size with one label each are read into memory if they fit; all others are decoded
    batch by batch.

    The splits train, validation and test of TFDS are used unchanged. If there is only train, it is
    divided by ``ratios``; if there is test but no validation, the fraction ``validation`` of train
    is held out. The held-out images are chosen at random, and are always the same. A test split
    whose labels are not published (-1) is left out.

    Args:
        prepared: The prepared set.
        stream: Function that makes a source of image files.
        validation: Fraction of train to hold out.
        ratios: Proportions of train, validation and test.

    Raises:
        UserError: There is no split train, a split cannot be divided or has no labels, or a file is
            damaged.
    """
    check_ratios(ratios)
    if "train" not in prepared.splits:
        raise UserError(
            f"the data set in {prepared.folder} has no split train, only "
            f"{', '.join(prepared.splits) or 'none at all'}: prepare it whole"
        )
    notes = []
    found = {split: prepared.splits[split] for split in SPLITS if split in prepared.splits}
    if "test" in found and _is_unlabelled(found["test"]):
        del found["test"]
        notes.append(f"{prepared.folder}: the images of test have no labels and are left out")
    for split, images in found.items():
        if _is_unlabelled(images):
            raise UserError(
                f"the images of {split} in {prepared.folder} have no labels (-1): choose another "
                "set"
            )
    if len(found) == 1:
        subsets = _divide(found["train"], tuple(ratio / sum(ratios) for ratio in ratios))
    elif "validation" not in found:
        subsets = _divide(found["train"], (1 - validation, validation, 0))
        subsets["test"] = _all_of(found["test"])
    else:
        subsets = {split: _all_of(images) for split, images in found.items()}
    empty = Subset(found["train"], np.zeros(0, np.intp))
    chosen = [subsets.get(split, empty) for split in SPLITS]
    if not len(chosen[0]):
        raise UserError(
            f"the data set in {prepared.folder} has no images left to train on: hold out fewer"
        )
    make_source: Callable[[Subset], Source] = _in_memory if _fits_in_memory(chosen) else stream
    train, held_out, test = map(make_source, chosen)
    return Dataset(
        prepared.name,
        prepared.classes,
        train,
        held_out,
        test,
        notes=tuple(notes),
        multi_label=found["train"].multi_label,
    )


def _all_of(split: PreparedSplit) -> Subset:
    return Subset(split, np.arange(len(split)))


def _divide(split: PreparedSplit, fractions: tuple[float, ...]) -> dict[str, Subset]:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(split))
    cuts = np.round(np.cumsum(fractions)[:-1] * len(split)).astype(int)
    groups = zip(SPLITS, np.split(order, cuts), strict=True)
    return {name: Subset(split, np.sort(indices)) for name, indices in groups}


def _is_unlabelled(split: PreparedSplit) -> bool:
    return not split.multi_label and len(split) > 0 and int(split.read(0)[1]) < 0  # type: ignore[arg-type]


def _fits_in_memory(subsets: list[Subset]) -> bool:
    shape = subsets[0].whole.image_shape
    if shape is None or any(subset.whole.multi_label for subset in subsets):
        return False
    return sum(map(len, subsets)) * math.prod(shape) <= MAX_BYTES_IN_MEMORY


def _in_memory(subset: Subset) -> Split:
    if not len(subset):
        shape = subset.whole.image_shape or ()
        return Split(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32))
    batch = subset.whole.gather(subset.indices)
    return Split(batch["image"], subset.labels)
