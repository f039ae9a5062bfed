"""PASCAL VOC 2012 for classification as TFDS examples.

`ImageSets/Main/<class>_<split>.txt` says of every image whether it shows the class: 1 (yes), -1
(no) or 0 (only objects marked difficult, which the challenge leaves out of its count). The test
set has no such files and is not read. Everingham et al., "The PASCAL VOC 2012 Development Kit".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flax_resnet.data.tfds.archives import Tree, open_tree
from flax_resnet.data.tfds.contents import Contents, Example, photo_parts
from flax_resnet.errors import UserError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_SPLITS = {"train": "train", "validation": "val"}  # TFDS's names and VOC's
WANTED = "VOCtrainval_11-May-2012.tar or the folder VOCdevkit/VOC2012 extracted from it"
_PRESENT, _ABSENT = 1, -1
_PHOTOS = "JPEGImages/"


@dataclass(frozen=True)
class _Marks:
    """`marks[i, k]` is what is said of image `ids[i]` and class k: int8 [N, 20] of -1, 0, 1."""

    ids: tuple[str, ...]
    marks: npt.NDArray[np.int8]


def read_voc2012(source: Path, scratch: Path) -> Contents:
    """Read the multi-label form: all images, each with any number of the 20 classes.

    The features are TFDS's: `labels_no_difficult` has the classes marked 1, which models are to
    predict; `labels` has those marked 0 as well.

    Raises:
        UserError: the source is not what it should be.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    tree, root, splits = _read(source, scratch)
    classes = tfds.features.ClassLabel(names=CLASSES)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "labels": tfds.features.Sequence(classes),
        "labels_no_difficult": tfds.features.Sequence(classes),
    }
    parts = [
        part
        for split, said in splits.items()
        for part in photo_parts(
            split, tree, _photo_names(root, said.ids), partial(_multi_label, _rows(said))
        )
    ]
    return Contents(
        tfds.features.FeaturesDict(features),
        "labels_no_difficult",
        tuple(parts),
        sum(len(said.ids) for said in splits.values()),
    )


def read_voc2012_single_label(source: Path, scratch: Path) -> Contents:
    """Read the single-label form: the images with exactly one class marked 1, labelled with it.

    Classes marked 0 do not count, so a labelled image may show difficult objects of others.

    Raises:
        UserError: the source is not what it should be, or no image of a split is left.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    tree, root, splits = _read(source, scratch)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }
    parts, notes, images = [], [], 0
    for split, said in splits.items():
        single = np.flatnonzero((said.marks == _PRESENT).sum(axis=1) == 1)
        if not len(single):
            raise UserError(f"{source} has no image of one class in {split}: give {WANTED}")
        left = _Marks(tuple(said.ids[i] for i in single), said.marks[single])
        names = _photo_names(root, left.ids)
        parts += photo_parts(split, tree, names, partial(_single_label, _rows(left)))
        images += len(single)
        notes.append(
            f"{len(single):,} of the {len(said.ids):,} {split} images have exactly one class "
            "marked as present, and are kept"
        )
    return Contents(
        tfds.features.FeaturesDict(features), "label", tuple(parts), images, tuple(notes)
    )


def _read(source: Path, scratch: Path) -> tuple[Tree, str, dict[str, _Marks]]:
    tree = open_tree(source, scratch)
    root = _root(tree)
    splits = {split: _marks(tree, root, suffix) for split, suffix in _SPLITS.items()}
    for said in splits.values():
        names = _photo_names(root, said.ids)
        absent = [name for name in names if name not in tree.places]
        if absent:
            raise UserError(
                f"{source} lacks {len(absent):,} of its {len(names):,} listed images, such as "
                f"{absent[0]}: give {WANTED}"
            )
    return tree, root, splits


def _root(tree: Tree) -> str:
    """Return the folder VOC2012 with its slash; it may have VOC2007 beside it."""
    marker = f"ImageSets/Main/{CLASSES[0]}_train.txt"
    return (
        "VOCdevkit/VOC2012/"
        if f"VOCdevkit/VOC2012/{marker}" in tree.places
        else tree.root_of(marker, WANTED)
    )


def _marks(tree: Tree, root: str, suffix: str) -> _Marks:
    columns = []
    ids: tuple[str, ...] | None = None
    for name in CLASSES:
        file = f"{root}ImageSets/Main/{name}_{suffix}.txt"
        if file not in tree.places:
            raise UserError(f"{tree.source} has no {file}: give {WANTED}")
        rows = [line.split() for line in tree.read(file).decode("utf-8", "replace").splitlines()]
        rows = [row for row in rows if row]
        if not rows or any(len(row) != 2 or row[1] not in ("1", "0", "-1") for row in rows):
            raise UserError(
                f"{file} in {tree.source} is not a list of images, each with 1, 0 or -1: "
                f"give {WANTED}"
            )
        listed = tuple(row[0] for row in rows)
        if ids is None:
            ids = listed
        elif listed != ids:
            raise UserError(
                f"{file} in {tree.source} lists other images than {CLASSES[0]}_{suffix}.txt: "
                f"give {WANTED}"
            )
        columns.append([int(row[1]) for row in rows])
    return _Marks(ids or (), np.array(columns, np.int8).T)


def _photo_names(root: str, ids: tuple[str, ...]) -> list[str]:
    return [f"{root}{_PHOTOS}{image}.jpg" for image in ids]


def _rows(said: _Marks) -> dict[str, npt.NDArray[np.int8]]:
    """Name of the image file -> int8 [20], what is said of it."""
    return {f"{image}.jpg": row for image, row in zip(said.ids, said.marks, strict=True)}


def _multi_label(rows: dict[str, npt.NDArray[np.int8]], name: str, content: bytes) -> Example:
    filename = name.rpartition(_PHOTOS)[2]
    row = rows[filename]
    return {
        "image": content,
        "image/filename": filename,
        "labels": np.flatnonzero(row != _ABSENT).tolist(),
        "labels_no_difficult": np.flatnonzero(row == _PRESENT).tolist(),
    }


def _single_label(rows: dict[str, npt.NDArray[np.int8]], name: str, content: bytes) -> Example:
    filename = name.rpartition(_PHOTOS)[2]
    label = int(np.flatnonzero(rows[filename] == _PRESENT)[0])
    return {"image": content, "image/filename": filename, "label": label}
