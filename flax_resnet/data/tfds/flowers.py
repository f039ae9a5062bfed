"""The flower photos of TensorFlow's tutorials as TFDS examples."""

from __future__ import annotations

import posixpath
from pathlib import Path

from flax_resnet.data.tfds.archives import open_tree
from flax_resnet.data.tfds.contents import DatasetContents, Example, photo_shards
from flax_resnet.errors import UserError

# In the order of TFDS, which is the order of the archive.
CLASSES = ("dandelion", "daisy", "tulips", "sunflowers", "roses")
# Some copies of these photos have folder names in the singular.
_FOLDERS = {name: name for name in CLASSES} | {name.removesuffix("s"): name for name in CLASSES}
WANTED = f"flower_photos.tgz or a folder with the folders {', '.join(sorted(CLASSES))}"
_EXTENSIONS = (".jpg", ".jpeg")


def read_flowers(source: Path, scratch: Path) -> DatasetContents:
    """Read ``flower_photos.tgz``, or a folder with a folder of JPEG images for each class.

    The images are sorted by class folder and file name.

    Raises:
        UserError: The source has other contents.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    tree = open_tree(source, scratch)
    names = sorted(name for name in tree.files if name.lower().endswith(_EXTENSIONS))
    if not names:
        raise UserError(f"{source} has no JPEG images in folders: give {WANTED}")
    parents = {posixpath.split(posixpath.dirname(name)) for name in names}
    others = sorted(folder for _, folder in parents if folder.lower() not in _FOLDERS)
    if others:
        folder = others[0] or "."
        raise UserError(f"{source} has images in the folder {folder!r}: give {WANTED}")
    labels = {_label(name) for name in names}
    if len(parents) > len(labels):
        raise UserError(f"{source} has more than one folder of a class: give {WANTED}")
    if absent := sorted(set(CLASSES) - {CLASSES[label] for label in labels}):
        raise UserError(f"{source} has no images of {', '.join(absent)}: give {WANTED}")
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
    )
    shards = tuple(photo_shards("train", tree, names, _example))
    return DatasetContents(features, "label", shards, len(names))


def _label(name: str) -> int:
    folder = posixpath.basename(posixpath.dirname(name))
    return CLASSES.index(_FOLDERS[folder.lower()])


def _example(name: str, content: bytes) -> Example:
    return {"image": content, "label": _label(name)}
