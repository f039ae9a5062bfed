"""The files of an image data set with their labels, and their division into splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from flax_resnet.data.images.digests import digest_files
from flax_resnet.data.images.splits import SPLITS, SplitRatios, divide
from flax_resnet.errors import UserError


@dataclass(frozen=True, eq=False)
class Records:
    """The image files of one split, as paths and labels.

    Attributes:
        paths: One path for each image.
        labels: int32 ``[N]``.

    Raises:
        ValueError: The number or type of the labels does not fit the paths.
    """

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.labels.dtype != np.int32 or self.labels.shape != (len(self.paths),):
            raise ValueError(
                f"{len(self.paths)} paths, but labels of type {self.labels.dtype} and shape "
                f"{list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """``()``, because a label is one number."""
        return ()

    def read(self, index: int) -> tuple[str, np.int32]:
        """Return the path of a file and its label."""
        return self.paths[index], self.labels[index]

    def name_of(self, index: int) -> str:
        """Return the path of a file."""
        return self.paths[index]


@dataclass(frozen=True, eq=False)
class SplitRecords:
    """The three splits of a data set of image files.

    Attributes:
        classes: Class names; ``classes[label]`` is the name of a label.
        train, validation, test: The files of each split.
        notes: Sentences for the user about what was found.
        missing_classes: Sentences about the classes that have no image in a split.
        left_out: Reason for each path that is named like an image and is in no split.
        given_splits: The splits that the source itself has; the others were taken out of these.
    """

    classes: tuple[str, ...]
    train: Records
    validation: Records
    test: Records
    notes: tuple[str, ...] = ()
    missing_classes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    given_splits: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Records]:
        """The three splits by name, in the order of ``SPLITS``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Entry:
    """One image file; ``split`` is one of ``SPLITS``, or None if none was given."""

    path: str
    label: int
    split: str | None


def assemble(
    source: str,
    entries: Sequence[Entry],
    classes: Sequence[str],
    ratios: SplitRatios,
    notes: Iterable[str] = (),
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> SplitRecords:
    """Put every entry into its split, in the given order.

    Entries without a split get one by the hash of their content (``splits.divide``); those whose
    file cannot be read are in train, where they are left out and named. If the entries
    have splits but no validation, validation is taken out of train in the same way, in the
    proportion train : validation of the ratios. If the entries have splits, no test split is made.

    Args:
        source: The folder or list that the entries come from, for messages.
        entries: The image files.
        classes: Class names in the order of the labels.
        ratios: Proportions of the splits.
        notes: Sentences for the user, to which more are added.
        left_out: Reason for each path that is not among the entries although it is named like an
            image.

    Raises:
        UserError: There is no entry or only one class, or the ratios are not valid.
    """
    check_ratios(ratios)
    if not entries:
        raise UserError(f"{source} has no images: put some there, or give another folder or list")
    if len(classes) == 1:
        raise UserError(
            f"{source} has one class only, {classes[0]!r}: a classifier needs images of two or more"
        )
    given = {entry.split for entry in entries}
    notes = list(notes)
    divided: tuple[str, ...] = ()
    if None in given:
        entries, divided = _with_splits(entries, ratios), SPLITS
    elif "train" in given and "validation" not in given and ratios[1] > 0:
        train = [entry for entry in entries if entry.split == "train"]
        others = [entry for entry in entries if entry.split != "train"]
        ratios = (ratios[0], ratios[1], 0)
        entries, divided = _with_splits(train, ratios) + others, ("train", "validation")
        notes.append(f"{source} has no validation images: some of train are used, by their content")
    records, missing = {}, []
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        labels = np.array([entry.label for entry in chosen], np.int32)
        records[split] = Records(tuple(entry.path for entry in chosen), labels)
        needed = sum(ratio > 0 for ratio in ratios) if split in divided else None
        missing += _missing_classes(source, split, labels, classes, needed)
    return SplitRecords(
        tuple(classes),
        **records,
        notes=tuple(notes),
        missing_classes=tuple(missing),
        left_out=dict(left_out),
        given_splits=tuple(split for split in SPLITS if split in given),
    )


def check_ratios(ratios: SplitRatios) -> None:
    """Check the proportions of train, validation and test.

    Raises:
        UserError: They are not three finite numbers of at least 0, with train above 0.
    """
    valid = len(ratios) == 3 and all(math.isfinite(ratio) and ratio >= 0 for ratio in ratios)
    if not valid or ratios[0] == 0:
        given = ":".join(f"{ratio:g}" for ratio in ratios)
        raise UserError(
            f"the split {given} is not valid: give the proportions of train, validation and test, "
            "such as 8:1:1, none negative and train more than 0"
        )


def first_few(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names and the number of the others, for a message."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def pluralize(number: int, one: str, many: str) -> str:
    """Return a number with its noun in singular or plural."""
    return f"{number:,} {one if number == 1 else many}"


def _with_splits(entries: Sequence[Entry], ratios: SplitRatios) -> list[Entry]:
    """Give every entry a split. A file that cannot be read is in train, where it is reported."""
    digests = digest_files([entry.path for entry in entries])
    readable = [
        (entry, digest.fraction)
        for entry, digest in zip(entries, digests, strict=True)
        if digest is not None
    ]
    splits = divide(
        [fraction for _, fraction in readable], [entry.label for entry, _ in readable], ratios
    )
    chosen = {entry.path: split for (entry, _), split in zip(readable, splits, strict=True)}
    return [Entry(entry.path, entry.label, chosen.get(entry.path, "train")) for entry in entries]


def _missing_classes(
    source: str,
    split: str,
    labels: npt.NDArray[np.int32],
    classes: Sequence[str],
    needed: int | None,
) -> list[str]:
    """Return a sentence if some classes have no image in a split that has other images.

    ``needed`` is the number of images that a class needs if the split was divided from others.
    """
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not absent or not len(labels):
        return []
    noun = "class has" if len(absent) == 1 else "classes have"
    why = "" if needed is None else f", because it takes {needed} different ones to divide a class"
    return [f"{source}: {len(absent)} {noun} no image in {split} ({first_few(absent)}){why}"]
