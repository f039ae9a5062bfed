"""PASCAL VOC 2012 for classification as TFDS examples.

``ImageSets/Main/<class>_<split>.txt`` marks for every image whether it shows the class: 1 (yes), -1
(no) or 0 (only objects marked difficult, which the challenge does not count). The test set has no
such files and is not read. Everingham et al., "The PASCAL VOC 2012 Development Kit".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flax_resnet.data.tfds.archives import FileTree, open_tree
from flax_resnet.data.tfds.contents import DatasetContents, Example, photo_shards
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
class _Annotations:
    """The image-level annotations of a split.

    Attributes:
        ids: File names of the images without extension, ``[N]``.
        values: int8 ``[N, 20]``: 1, 0 or -1 for each image and class.
    """

    ids: tuple[str, ...]
    values: npt.NDArray[np.int8]


def read_voc2012(source: Path, scratch: Path) -> DatasetContents:
    """Read the multi-label set: all images, each with any number of the 20 classes.

    The features are those of TFDS: ``labels_no_difficult`` has the classes marked 1, which models
    predict; ``labels`` also has those marked 0.

    Raises:
        UserError: The source has other contents.
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
    shards = [
        shard
        for split, labels in splits.items()
        for shard in photo_shards(
            split,
            tree,
            _photo_names(root, labels.ids),
            partial(_multi_label, _rows(labels)),
        )
    ]
    return DatasetContents(
        tfds.features.FeaturesDict(features),
        "labels_no_difficult",
        tuple(shards),
        sum(len(labels.ids) for labels in splits.values()),
    )


def read_voc2012_single_label(source: Path, scratch: Path) -> DatasetContents:
    """Read the single-label set: the images with exactly one class marked 1, with it as the label.

    Classes marked 0 do not count, so an image may also show difficult objects of other classes.

    Raises:
        UserError: The source has other contents, or no image of a split is left.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    tree, root, splits = _read(source, scratch)
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=CLASSES),
    }
    shards, notes, images = [], [], 0
    for split, labels in splits.items():
        single = np.flatnonzero((labels.values == _PRESENT).sum(axis=1) == 1)
        if not len(single):
            raise UserError(f"{source} has no image of one class in {split}: give {WANTED}")
        kept = _Annotations(tuple(labels.ids[i] for i in single), labels.values[single])
        names = _photo_names(root, kept.ids)
        shards += photo_shards(split, tree, names, partial(_single_label, _rows(kept)))
        images += len(single)
        notes.append(
            f"{len(single):,} of the {len(labels.ids):,} {split} images have exactly one class "
            "marked as present, and are kept"
        )
    return DatasetContents(
        tfds.features.FeaturesDict(features), "label", tuple(shards), images, tuple(notes)
    )


def _read(source: Path, scratch: Path) -> tuple[FileTree, str, dict[str, _Annotations]]:
    tree = open_tree(source, scratch)
    root = _root(tree)
    splits = {split: _read_annotations(tree, root, suffix) for split, suffix in _SPLITS.items()}
    for labels in splits.values():
        names = _photo_names(root, labels.ids)
        absent = [name for name in names if name not in tree.files]
        if absent:
            raise UserError(
                f"{source} lacks {len(absent):,} of its {len(names):,} listed images, such as "
                f"{absent[0]}: give {WANTED}"
            )
    return tree, root, splits


def _root(tree: FileTree) -> str:
    """Return the folder VOC2012 with its slash; the source may also have VOC2007."""
    marker = f"ImageSets/Main/{CLASSES[0]}_train.txt"
    return (
        "VOCdevkit/VOC2012/"
        if f"VOCdevkit/VOC2012/{marker}" in tree.files
        else tree.root_of(marker, WANTED)
    )


def _read_annotations(tree: FileTree, root: str, suffix: str) -> _Annotations:
    columns = []
    ids: tuple[str, ...] | None = None
    for name in CLASSES:
        file = f"{root}ImageSets/Main/{name}_{suffix}.txt"
        if file not in tree.files:
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
    return _Annotations(ids or (), np.array(columns, np.int8).T)


def _photo_names(root: str, ids: tuple[str, ...]) -> list[str]:
    return [f"{root}{_PHOTOS}{image}.jpg" for image in ids]


def _rows(labels: _Annotations) -> dict[str, npt.NDArray[np.int8]]:
    """Return the annotations of each image, int8 ``[20]``, by the name of its file."""
    return {f"{image}.jpg": row for image, row in zip(labels.ids, labels.values, strict=True)}


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
