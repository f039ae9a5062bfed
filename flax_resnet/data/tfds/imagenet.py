"""ImageNet (ILSVRC 2012) as TFDS examples, from the official archives or extracted folders.

The image files are stored unchanged. TFDS rewrites 23 of the 1,281,167 (22 CMYK JPEGs and one PNG),
so a reader of ours must convert decoded images to RGB.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from flax_resnet.data.tfds.archives import (
    FileSpan,
    FileTree,
    folder_files,
    open_tree,
    reading,
    tar_files,
)
from flax_resnet.data.tfds.contents import (
    DatasetContents,
    Example,
    ShardContents,
    photo_examples,
    photo_shards,
)
from flax_resnet.errors import UserError

TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
VALIDATION_ARCHIVE = "ILSVRC2012_img_val.tar"
WANTED = (
    f"a folder with {TRAIN_ARCHIVE}, {VALIDATION_ARCHIVE} or both, "
    "or with the folders train/ and val/ extracted from them"
)
_EXTENSIONS = (".jpeg", ".jpg")
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)


def read_imagenet(source: Path, scratch: Path) -> DatasetContents:
    """Read the training images, the validation images, or both.

    Training images are in ILSVRC2012_img_train.tar (one tar for each synset) or in
    ``train/<synset>/*.JPEG``, and are sorted by synset. Validation images are in
    ILSVRC2012_img_val.tar, ``val/*.JPEG`` or ``val/<synset>/*.JPEG``, and are sorted by file name;
    without a synset folder, TFDS's list gives their synset.

    Raises:
        UserError: The source has other contents.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    if not source.is_dir():
        raise UserError(f"{source} is no folder: give {WANTED}")
    classes = tfds.features.ClassLabel(names=list(imagenet_synsets()))
    synsets = {synset: label for label, synset in enumerate(classes.names)}
    # Line n is the synset of validation image n.
    truth = [synsets[synset] for synset in _read_list("validation_labels.txt")]
    splits = {
        "train": _train_shards(source, synsets),
        "validation": _validation_shards(source, scratch, synsets, truth),
    }
    if not any(splits.values()):
        raise UserError(f"{source} has neither archives nor folders of ImageNet: give {WANTED}")
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": classes,
        "file_name": tfds.features.Text(),
    }
    return DatasetContents(
        tfds.features.FeaturesDict(features),
        "label",
        tuple(shard for shards in splits.values() for shard in shards),
        None,
        tuple(
            f"{source} has no {split} images, so the set gets no such split"
            for split, shards in splits.items()
            if not shards
        ),
    )


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """Return the WordNet IDs of ImageNet-1k's 1,000 classes, by label, such as ``n01440764``.

    They are those of TFDS; torchvision and timm number the classes in the same order.
    """
    return tuple(_read_list("labels.txt"))


def _read_list(name: str) -> list[str]:
    """Return the lines of one of TFDS's lists; it is not imported, which would take a second."""
    package = importlib.util.find_spec("tensorflow_datasets")
    assert package is not None and package.origin is not None
    return (Path(package.origin).parent / "datasets/imagenet2012" / name).read_text().split()


def _train_shards(source: Path, synsets: Mapping[str, int]) -> list[ShardContents]:
    """Return one shard for each synset; its images are listed when it is written."""
    archive, folder = source / TRAIN_ARCHIVE, source / "train"
    found: dict[str, tuple[str, Callable[[], FileTree]]] = {}
    if archive.exists():
        for member, span in tar_files(archive, archive).items():
            synset = member.removesuffix(".tar")
            found[synset] = f"{span.size} bytes", partial(_class_archive, archive, span)
    elif folder.is_dir():
        with reading(folder):
            for child in filter(Path.is_dir, folder.iterdir()):
                # The key has the number of files, so that a folder that has grown is written again.
                files = f"{sum(1 for _ in child.iterdir())} files"
                found[child.name] = files, partial(_class_folder, child)
    if unknown := sorted(set(found) - set(synsets)):
        raise UserError(
            f"{archive if archive.exists() else folder} has {unknown[0]}, which is not one of "
            f"ImageNet's 1,000 synsets: give {WANTED}"
        )
    return [
        ShardContents("train", f"{synset}: {size}", partial(_class_photos, tree, synsets[synset]))
        for synset, (size, tree) in sorted(found.items())
    ]


def _class_archive(archive: Path, span: FileSpan) -> FileTree:
    return FileTree(archive, tar_files(archive, archive, within=span))


def _class_folder(folder: Path) -> FileTree:
    return FileTree(folder, folder_files(folder))


def _class_photos(tree: Callable[[], FileTree], label: int) -> Iterator[Example]:
    found = tree()
    return photo_examples(found, _photo_names(found), partial(_example, lambda name: label))


def _validation_shards(
    source: Path, scratch: Path, synsets: Mapping[str, int], truth: Sequence[int]
) -> list[ShardContents]:
    archive, folder = source / VALIDATION_ARCHIVE, source / "val"
    if not (archive.exists() or folder.is_dir()):
        return []
    tree = open_tree(archive if archive.exists() else folder, scratch)
    names = sorted(_photo_names(tree), key=posixpath.basename)
    labels = {name: _validation_label(tree, name, synsets, truth) for name in names}
    return photo_shards("validation", tree, names, partial(_example, labels.__getitem__))


def _validation_label(
    tree: FileTree, name: str, synsets: Mapping[str, int], truth: Sequence[int]
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


def _photo_names(tree: FileTree) -> Iterable[str]:
    return [name for name in tree.files if name.lower().endswith(_EXTENSIONS)]


def _example(label_of: Callable[[str], int], name: str, content: bytes) -> Example:
    file = posixpath.basename(name)
    return {"image": content, "label": label_of(name), "file_name": file}
