"""Any prepared TFDS set as a data set: small images of one size in memory, photos streamed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flax_resnet.data.datasets import Dataset, Split
from flax_resnet.data.images.files import ImageFiles, Photos
from flax_resnet.data.images.records import SPLITS, Ratios, check_ratios
from flax_resnet.data.pipeline import Source
from flax_resnet.data.tfds.prepared import Prepared, PreparedSplit
from flax_resnet.errors import UserError

RESIDENT_BYTES = 4 << 30
"""Sets of more bytes than this, decoded, are streamed even where their images have one size."""

# The splits belong to the set and not to a run, see `datasets`.
_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the images of a split."""

    whole: PreparedSplit
    indices: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> npt.NDArray[Any]:
        """As of the whole.

        Raises:
            UserError: one is -1.
        """
        labels = self.whole.labels[self.indices]
        self._check(labels)
        return labels

    @property
    def label_shape(self) -> tuple[int, ...]:
        """As of the whole."""
        return self.whole.label_shape

    def read(self, index: int) -> tuple[bytes, npt.ArrayLike]:
        """As of the whole.

        Raises:
            UserError: the label is -1.
        """
        content, label = self.whole.read(int(self.indices[index]))
        self._check(label)
        return content, label

    def place(self, index: int) -> str:
        """As of the whole, where the image keeps its number."""
        return self.whole.place(int(self.indices[index]))

    def _check(self, labels: npt.ArrayLike) -> None:
        # A split of which no image has a label is found out when it is opened.
        if np.min(labels, initial=0) < 0:
            raise UserError(
                f"some images of {self.whole.name} in {self.whole.folder} have no label (-1): "
                "leave them out where the set is made, or choose another set"
            )


def open_parts(
    prepared: Prepared,
    streamed: Callable[[Photos], ImageFiles],
    *,
    validation: float = 0.1,
    ratios: Ratios = (8, 1, 1),
) -> Dataset:
    """Make a data set of a prepared one.

    Images of one size, with one label each and not too many, are read into memory; all others
    are decoded as they are needed.

    TFDS's splits train, validation and test are taken as they are. Where there is only train, it
    is divided by `ratios`; where there is test but no validation, `validation` of train is held
    out. What is held out is chosen at random, and always the same. A test split whose labels are
    not published (-1) is left out.

    Args:
        streamed: makes a source of image files.

    Raises:
        UserError: no split train, a split that cannot be divided so or has no labels, or a
            damaged file.
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
    for split, part in found.items():
        if _is_unlabelled(part):
            raise UserError(
                f"the images of {split} in {prepared.folder} have no labels (-1): choose another "
                "set"
            )
    if len(found) == 1:
        shares = tuple(share / sum(ratios) for share in ratios)
        parts = _divided(found["train"], shares)
    elif "validation" not in found:
        parts = _divided(found["train"], (1 - validation, validation, 0)) | {
            "test": _all_of(found["test"])
        }
    else:
        parts = {split: _all_of(found[split]) if split in found else None for split in SPLITS}
    empty = Part(found["train"], np.zeros(0, np.intp))
    chosen = [parts[split] or empty for split in SPLITS]
    if not len(chosen[0]):
        raise UserError(
            f"the data set in {prepared.folder} leaves no images to train on: hold out fewer"
        )
    make: Callable[[Part], Source] = _in_memory if _is_resident(chosen) else streamed
    train, held_out, test = (make(part) for part in chosen)
    return Dataset(
        prepared.name,
        prepared.classes,
        train,
        held_out,
        test,
        notes=tuple(notes),
        multi_label=found["train"].multi_label,
    )


def _all_of(split: PreparedSplit) -> Part:
    return Part(split, np.arange(len(split)))


def _divided(split: PreparedSplit, shares: tuple[float, ...]) -> dict[str, Part | None]:
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(split))
    cuts = np.round(np.cumsum(shares)[:-1] * len(split)).astype(int)
    pieces = np.split(order, cuts)
    return {name: Part(split, np.sort(piece)) for name, piece in zip(SPLITS, pieces, strict=True)}


def _is_unlabelled(split: PreparedSplit) -> bool:
    return not split.multi_label and len(split) > 0 and int(split.read(0)[1]) < 0  # type: ignore[arg-type]


def _is_resident(parts: list[Part]) -> bool:
    shape = parts[0].whole.image_shape
    if shape is None or any(part.whole.multi_label for part in parts):
        return False
    return sum(map(len, parts)) * math.prod(shape) <= RESIDENT_BYTES


def _in_memory(part: Part) -> Split:
    if not len(part):
        return Split(
            np.zeros((0, *(part.whole.image_shape or ())), np.uint8), np.zeros(0, np.int32)
        )
    batch = part.whole.gather(part.indices)
    return Split(batch["image"], part.labels)
