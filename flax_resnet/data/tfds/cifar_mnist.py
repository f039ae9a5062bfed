"""CIFAR and MNIST as TFDS examples: small images of one size, stored as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from flax_resnet.data import formats
from flax_resnet.data.formats import CifarLayout, FormatError
from flax_resnet.data.tfds.archives import FileTree, open_tree
from flax_resnet.data.tfds.contents import DatasetContents, Example, ShardContents
from flax_resnet.errors import UserError

_COARSE_NAMES = "coarse_label_names.txt"
_CIFAR100_RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, image
# The files of MNIST and Fashion-MNIST, images before labels; also without ".gz".
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def read_cifar(name: str, layout: CifarLayout, source: Path, scratch: Path) -> DatasetContents:
    """Read CIFAR-10 or CIFAR-100 from its binary archive or the folder extracted from it.

    Raises:
        UserError: The source has other contents.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    tree = open_tree(source, scratch)
    expected = f"the archive of {name} in its binary version, or the folder extracted from it"
    root = tree.root_of(layout.class_names, expected)
    try:
        train, test, classes = formats.read_cifar(_unpacked(tree, root, layout, scratch), layout)
    except FormatError as error:
        raise UserError(f"{source} {error.reason}: give {expected}") from error
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(names=classes),
    }
    splits = {"train": (layout.train, *train), "test": (layout.test, *test)}
    shards = []
    for split, (files, images, labels) in splits.items():
        columns: dict[str, np.ndarray] = {"label": labels}
        if layout == formats.CIFAR100:
            records = b"".join(tree.read(root + file) for file in files)
            columns["coarse_label"] = np.frombuffer(records, np.uint8)[::_CIFAR100_RECORD]
        ids = [f"{split}_{index:05}" for index in range(len(images))]
        examples = partial(_examples, images, columns, ids)
        shards.append(ShardContents(split, f"{len(images)}", examples))
    if layout == formats.CIFAR100:
        tree.root_of(root + _COARSE_NAMES, expected)
        # Like the file of the fine classes, it has one name per line and blank lines at the end.
        coarse = tree.read(root + _COARSE_NAMES).decode("utf-8", "replace").split("\n")
        features["coarse_label"] = tfds.features.ClassLabel(
            names=[line.strip() for line in coarse if line.strip()]
        )
    return DatasetContents(
        tfds.features.FeaturesDict(features),
        "label",
        tuple(shards),
        sum(len(images) for _, images, _ in splits.values()),
    )


def read_mnist(name: str, classes: tuple[str, ...], source: Path, scratch: Path) -> DatasetContents:
    """Read MNIST or Fashion-MNIST from a folder of its four IDX files, compressed or not.

    Raises:
        UserError: The source has other contents.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    expected = f"the folder of the four files of {name}, such as {_IDX_FILES['train'][0]}"
    shards, total = [], 0
    for split, files in _IDX_FILES.items():
        try:
            images_path, labels_path = (_plain_or_compressed(source, file) for file in files)
        except FileNotFoundError as error:
            raise UserError(f"{source} has no {error}: give {expected}") from error
        try:
            images, labels = formats.read_idx_pair(images_path, labels_path, (28, 28), len(classes))
        except FormatError as error:
            raise UserError(
                f"{' and '.join(map(str, error.paths))}: {error.reason}; give {expected}"
            ) from error
        examples = partial(_examples, images, {"label": labels}, None)
        shards.append(ShardContents(split, f"{len(images)}", examples))
        total += len(images)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(names=classes),
        }
    )
    return DatasetContents(features, "label", tuple(shards), total)


def _unpacked(tree: FileTree, root: str, layout: CifarLayout, scratch: Path) -> Path:
    """Return a folder with the files of the layout: that of the tree, or a copy in ``scratch``."""
    if tree.source.is_dir():
        return tree.source / root
    for file in layout.members:
        # The reader reports all absent files in one message.
        if root + file in tree.files:
            (scratch / file).write_bytes(tree.read(root + file))
    return scratch


def _plain_or_compressed(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.exists():
            return path
    raise FileNotFoundError(name)


def _examples(
    images: np.ndarray, labels: dict[str, np.ndarray], ids: list[str] | None
) -> Iterable[Example]:
    for index, image in enumerate(images):
        example: Example = {feature: int(column[index]) for feature, column in labels.items()}
        if ids is not None:
            example["id"] = ids[index]
        yield example | {"image": _png(image)}


def _png(image: np.ndarray) -> bytes:
    """Encode uint8 ``[H, W, C]`` with one channel or three as PNG."""
    buffer = io.BytesIO()
    # Pillow encodes, because TFDS would use TensorFlow.
    Image.fromarray(image.squeeze(axis=2) if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
