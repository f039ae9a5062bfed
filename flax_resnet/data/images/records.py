"""Which image files a data set has, with which labels, in which split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from flax_resnet.data.images.decoding import read_bytes
from flax_resnet.errors import UserError

SPLITS = ("train", "validation", "test")
# What folders and lists may call the splits, in any case.
SPLIT_NAMES = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
Ratios = tuple[float, float, float]
"""Shares of train, validation and test, such as (8, 1, 1); only their proportions count."""
RATIOS: Ratios = (8, 1, 1)

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Records:
    """Paths of image files and their labels int32 [N].

    Raises:
        ValueError: the two do not belong together by number or type.
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
        """(): a label is one number."""
        return ()

    def read(self, index: int) -> tuple[str, np.int32]:
        """Return the path of a file and its label."""
        return self.paths[index], self.labels[index]

    def place(self, index: int) -> str:
        """Return the path of a file."""
        return self.paths[index]


@dataclass(frozen=True, eq=False)
class ImageRecords:
    """A data set of image files; `classes[label]` is the name of a label.

    Attributes:
        notes: what a user should know about what was found, each a sentence.
    """

    classes: tuple[str, ...]
    train: Records
    validation: Records
    test: Records
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> dict[str, Records]:
        """The three splits, by the names of `SPLITS`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Entry:
    """One image file; its split is one of `SPLITS`, or None where nobody chose one."""

    path: str
    label: int
    split: str | None


def assemble(
    source: str,
    entries: Sequence[Entry],
    classes: Sequence[str],
    ratios: Ratios,
    notes: Iterable[str] = (),
) -> ImageRecords:
    """Put every entry into its split, keeping their order.

    Entries without a split get one by their content (`split_of_content`). Where the entries
    have splits but no validation, it is taken out of train in the same way, at
    train : validation of the ratios. A test split is never made where there are splits.

    Args:
        source: what the entries are of, for messages.

    Raises:
        UserError: no entry, one class, ratios that are none, or a file that cannot be read.
    """
    check_ratios(ratios)
    if not entries:
        raise UserError(f"{source} has no images: put some there, or name another place")
    if len(classes) == 1:
        raise UserError(
            f"{source} has one class only, {classes[0]!r}: a classifier needs images of two or more"
        )
    given = {entry.split for entry in entries}
    notes = list(notes)
    if None in given:
        entries = _with_splits(entries, ratios)
    elif "validation" not in given and ratios[1] > 0:
        train = [entry for entry in entries if entry.split == "train"]
        others = [entry for entry in entries if entry.split != "train"]
        entries = _with_splits(train, (ratios[0], ratios[1], 0)) + others
        notes.append(f"{source} has no validation images: some of train are used, by their content")
    parts = {}
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        labels = np.array([entry.label for entry in chosen], np.int32)
        parts[split] = Records(tuple(entry.path for entry in chosen), labels)
        notes += _lacking(source, split, labels, classes)
    return ImageRecords(tuple(classes), **parts, notes=tuple(notes))


def split_of_content(content: bytes | memoryview, ratios: Ratios = RATIOS) -> str:
    """Return the split that these bytes belong to, whatever other files there are.

    Their BLAKE2b hash, as a number in [0, 1), falls into the share of one split. So a split
    stays as it is when files are added or renamed, equal files are never on two sides, and every
    class is split in these proportions up to chance.
    """
    digest = hashlib.blake2b(content, digest_size=8).digest()
    place = (int.from_bytes(digest, "big") >> 11) / 2**53  # as exact as a float is
    edges = [sum(ratios[: n + 1]) / sum(ratios) for n in range(len(ratios))]
    return next(split for split, edge in zip(SPLITS, edges, strict=True) if place < edge)


def check_ratios(ratios: Ratios) -> None:
    """Raise a UserError unless the ratios are three, finite and not negative, train's above 0."""
    good = len(ratios) == 3 and all(math.isfinite(share) and share >= 0 for share in ratios)
    if not good or ratios[0] == 0:
        shares = ":".join(f"{share:g}" for share in ratios)
        raise UserError(
            f"the split {shares} is none: give the shares of train, validation and test, such as "
            "8:1:1, none negative and train more than 0"
        )


def some(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are, for use in a message."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def counted(number: int, one: str, many: str) -> str:
    """Return the number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


def in_threads(call: Callable[[str], _T], paths: Sequence[str]) -> list[_T]:
    """Return `call` of every path, in order: reading waits for the disk, not for the processor."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(call, paths))


def _with_splits(entries: Sequence[Entry], ratios: Ratios) -> list[Entry]:
    splits = in_threads(
        lambda path: split_of_content(read_bytes(path), ratios), [entry.path for entry in entries]
    )
    return [
        Entry(entry.path, entry.label, split) for entry, split in zip(entries, splits, strict=True)
    ]


def _lacking(
    source: str, split: str, labels: npt.NDArray[np.int32], classes: Sequence[str]
) -> list[str]:
    """Return a sentence where some classes have no image in a split that has images of others."""
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not absent or not len(labels):
        return []
    noun = "class has" if len(absent) == 1 else "classes have"
    return [f"{source}: {len(absent)} {noun} no image in {split} ({some(absent)})"]
