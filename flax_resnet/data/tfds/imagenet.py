"""ImageNet (ILSVRC 2012) as TFDS examples, from the official archives or extracted folders.

The image files are kept as they are, where TFDS rewrites 23 of the 1,281,167: 22 are CMYK JPEGs
and one is a PNG, so a reader must convert what it decodes to RGB.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from flax_resnet.data.tfds.archives import (
    Place,
    Tree,
    folder_places,
    open_tree,
    reading,
    tar_places,
)
from flax_resnet.data.tfds.contents import Contents, Example, Part, photo_parts, photos
from flax_resnet.errors import UserError

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VALIDATION_ARCHIVE = "ILSVRC2012_img_val.tar"
WANTED = (
    f"a folder with {TRAIN_ARCHIVE}, {VALIDATION_ARCHIVE} or both, "
    "or with the folders train/ and val/ extracted from them"
)
_ENDINGS = (".jpeg", ".jpg")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)


def read_imagenet(source: Path, scratch: Path) -> Contents:
    """Read what there is of the training and the validation images.

    Training: ILSVRC2012_img_train.tar, a tar of a tar for each synset, or `train/<synset>/*.JPEG`;
    in order of synset. Validation: ILSVRC2012_img_val.tar, `val/*.JPEG` or `val/<synset>/*.JPEG`;
    in order of file name. Where no folder says the synset, it is the one in TFDS's list.

    Raises:
        UserError: the source is not what it should be.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    if not source.is_dir():
        raise UserError(f"{source} is no folder: give {WANTED}")
    lists = tfds.core.tfds_path("datasets/imagenet2012")
    classes = tfds.features.ClassLabel(names_file=lists / "labels.txt")
    synsets = {synset: label for label, synset in enumerate(classes.names)}
    # Line n is the synset of validation image n.
    truth = [synsets[synset] for synset in (lists / "validation_labels.txt").read_text().split()]
    splits = {
        "train": _train_parts(source, synsets),
        "validation": _validation_parts(source, scratch, synsets, truth),
    }
    if not any(splits.values()):
        raise UserError(f"{source} has neither archives nor folders of ImageNet: give {WANTED}")
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": classes,
        "file_name": tfds.features.Text(),
    }
    return Contents(
        tfds.features.FeaturesDict(features),
        "label",
        tuple(part for parts in splits.values() for part in parts),
        None,
        tuple(
            f"{source} has no {split} images, so the set gets no such split"
            for split, parts in splits.items()
            if not parts
        ),
    )


def _train_parts(source: Path, synsets: Mapping[str, int]) -> list[Part]:
    """Make a part of each synset; what is in it is looked up when it is written."""
    archive, folder = source / TRAIN_ARCHIVE, source / "train"
    found: dict[str, tuple[str, Callable[[], Tree]]] = {}
    if archive.exists():
        for member, place in tar_places(archive, archive).items():
            synset = member.removesuffix(".tar")
            found[synset] = f"{place.size} bytes", partial(_class_archive, archive, place)
    elif folder.is_dir():
        with reading(folder):
            for child in filter(Path.is_dir, folder.iterdir()):
                # Counted, so that a folder that has grown is not taken for the same.
                files = f"{sum(1 for _ in child.iterdir())} files"
                found[child.name] = files, partial(_class_folder, child)
    if strange := sorted(set(found) - set(synsets)):
        raise UserError(
            f"{archive if archive.exists() else folder} has {strange[0]}, which is none of "
            f"ImageNet's 1,000 synsets: give {WANTED}"
        )
    return [
        Part("train", f"{synset}: {size}", partial(_class_photos, tree, synsets[synset]))
        for synset, (size, tree) in sorted(found.items())
    ]


def _class_archive(archive: Path, place: Place) -> Tree:
    return Tree(archive, tar_places(archive, archive, within=place))


def _class_folder(folder: Path) -> Tree:
    return Tree(folder, folder_places(folder))


def _class_photos(tree: Callable[[], Tree], label: int) -> Iterator[Example]:
    found = tree()
    return photos(found, _photo_names(found), partial(_example, lambda name: label))


def _validation_parts(
    source: Path, scratch: Path, synsets: Mapping[str, int], truth: Sequence[int]
) -> list[Part]:
    archive, folder = source / VALIDATION_ARCHIVE, source / "val"
    if not (archive.exists() or folder.is_dir()):
        return []
    tree = open_tree(archive if archive.exists() else folder, scratch)
    names = sorted(_photo_names(tree), key=posixpath.basename)
    labels = {name: _validation_label(tree, name, synsets, truth) for name in names}
    return photo_parts("validation", tree, names, partial(_example, labels.__getitem__))


def _validation_label(
    tree: Tree, name: str, synsets: Mapping[str, int], truth: Sequence[int]
) -> int:
    folder, file = posixpath.split(name)
    if (synset := posixpath.basename(folder)) in synsets:
        return synsets[synset]
    match = _VALIDATION_NAME.fullmatch(file)
    if match is None or not 1 <= int(match[1]) <= len(truth):
        raise UserError(
            f"{name} in {tree.source} is neither in the folder of a synset nor named "
            f"ILSVRC2012_val_00000001.JPEG to _000{len(truth)}.JPEG: give {WANTED}"
        )
    return truth[int(match[1]) - 1]


def _photo_names(tree: Tree) -> Iterable[str]:
    return [name for name in tree.places if name.lower().endswith(_ENDINGS)]


def _example(label_of: Callable[[str], int], name: str, content: bytes) -> Example:
    file = posixpath.basename(name)
    return {"image": content, "label": label_of(name), "file_name": file}
