"""Image folders: ``root/class/...``, or ``root/train/class/...`` next to other splits."""

from __future__ import annotations

import itertools
import os
import tarfile
import zipfile
from collections.abc import Collection, Iterator, Sequence
from types import MappingProxyType

from flax_resnet.data.images.layout import Layout, find_layout, no_images
from flax_resnet.data.images.listing import read_listing
from flax_resnet.data.images.matching import Namings, match_classes
from flax_resnet.data.images.records import (
    Entry,
    SplitRecords,
    assemble,
    check_ratios,
    first_few,
    pluralize,
)
from flax_resnet.data.images.shards import find_shards, shard_format
from flax_resnet.data.images.splits import SPLIT_RATIOS, SplitRatios
from flax_resnet.data.images.tables import TABLE_EXTENSIONS
from flax_resnet.data.images.tree import LOOP, Folder, read_tree
from flax_resnet.errors import UserError
from flax_resnet.paths import expand_text, scheme_of
from flax_resnet.storage import local_data

_LISTS = ", ".join(TABLE_EXTENSIONS)


def find_images(
    source: str | os.PathLike[str],
    *,
    ratios: SplitRatios = SPLIT_RATIOS,
    classes: Sequence[str] | None = None,
    other_names: Namings = MappingProxyType({}),
    columns: Sequence[str] | None = None,
    form: str | None = None,
) -> SplitRecords:
    """Find the image files of a folder, of a CSV or JSONL list (``listing.read_listing``), or the
    images of shards (``shards.find_shards``).

    A folder has one folder for each class; or it has folders of the splits, and these have the
    class folders. ``layout.find_layout`` decides which, and refuses what could be either. Files
    that are neither in a class folder nor hidden are named in ``left_out`` if they have an image's
    extension (``EXTENSIONS``).

    The images of a class may lie in subfolders. Classes are numbered in the order of their names,
    and images are sorted by path. Symbolic links are followed unless they lead back to one of their
    own parent folders.

    Args:
        source: The folder or the list; those in object storage are copied once.
        ratios: Proportions in which images without a split are divided, see ``records.assemble``.
        classes: Class names in their order; by default the folders of train.
        other_names: Other names that ``classes`` may have in the source, see ``match_classes``.
        columns: The columns of a list or of shards, see ``read_listing`` and ``find_shards``.
        form: Format of shards, a key of ``SHARD_FORMATS``; by default a folder with shards and
            without image files is one.

    Raises:
        UserError: The source does not exist, has another layout or cannot be read, has only one
            class, has a class that train (or ``classes``) lacks, or the ratios are not valid.
    """
    path = str(local_data(source)) if scheme_of(os.fspath(source)) else expand_text(source)
    check_ratios(ratios)
    if os.path.isdir(path) and form is None:
        tree = read_tree(path)
        if tree.count or (form := shard_format(path)) is None:
            return _read_folder(path, tree, ratios, classes, other_names)
    elif form is None and path.lower().endswith((".tar", ".parquet")) and os.path.isfile(path):
        form = shard_format(path)
    if form is not None:
        return find_shards(
            path, form, ratios=ratios, classes=classes, other_names=other_names, columns=columns
        )
    if os.path.isfile(path) and path.lower().endswith(TABLE_EXTENSIONS):
        entries, names, notes = read_listing(path, classes, columns, other_names)
        return assemble(path, entries, names, ratios, notes)
    if os.path.isfile(path) and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        raise UserError(f"{path} is an archive: unpack it and name the folder")
    if os.path.exists(path):
        raise UserError(f"{path} is neither a folder nor a list ({_LISTS}): name one of these")
    raise UserError(f"{path} does not exist: name a folder of images or a list ({_LISTS})")


def _read_folder(
    root: str,
    tree: Folder,
    ratios: SplitRatios,
    classes: Sequence[str] | None,
    other_names: Namings,
) -> SplitRecords:
    for folder in tree.walk():
        if folder.unreadable:
            raise UserError(
                f"{folder.path} {folder.unreadable}: give yourself the permission to read it, or "
                "move it away"
            )
    names = None if classes is None else {*classes, *itertools.chain(*other_names.values())}
    layout = find_layout(tree, names)
    for folder in layout.splits.values():
        if not folder.folders_with_images:
            raise no_images(folder)
    train = layout.splits.get("train") or layout.splits.get(None)
    notes = [*layout.notes, *_notes(layout)]
    if classes is not None:
        found = {child.name for f in layout.splits.values() for child in f.folders_with_images}
        labels, note = match_classes(root, found, classes, other_names)
        notes += [note] if note else []
    else:
        assert train is not None
        classes = [child.name for child in train.folders_with_images]
        labels = {name: label for label, name in enumerate(classes)}
        for folder in layout.splits.values():
            _check_classes(folder, labels, train)
        if len(classes) == 1:
            raise _one_class(root, train.folders_with_images[0])
    entries = [
        Entry(path, labels[child.name], split)
        for split, folder in layout.splits.items()
        for child in folder.folders_with_images
        for path in child.image_paths()
    ]
    left_out = {**tree.left_out(), **layout.left_out}
    for folder in layout.splits.values():
        reason = "is next to the class folders"
        left_out |= {os.path.join(folder.path, name): reason for name in folder.images}
    return assemble(root, entries, classes, ratios, notes, left_out)


def _one_class(root: str, only: Folder) -> UserError:
    message = f"{root} has one class only, {only.name!r}: a classifier needs images of two or more"
    if len(inner := only.folders_with_images) > 1:
        names = first_few([folder.name for folder in inner])
        message += f"; if the folders in it ({names}) are the classes, name {only.path}"
    return UserError(message)


def _check_classes(folder: Folder, known: Collection[str], train: Folder) -> None:
    unknown = [child.name for child in folder.folders_with_images if child.name not in known]
    if unknown:
        raise UserError(
            f"{folder.path} has {pluralize(len(unknown), 'class', 'classes')} that "
            f"{'is' if len(unknown) == 1 else 'are'} not among those of train ({train.path}): "
            f"{first_few(unknown)}; rename or remove these folders"
        )


def _notes(layout: Layout) -> Iterator[str]:
    """Yield a sentence for each kind of file that is ignored in the splits, with a few of them."""
    for folder in layout.splits.values():
        inner = [below for child in folder.folders for below in child.walk()]
        unusable = folder.unusable | {k: v for below in inner for k, v in below.unusable.items()}
        loops = [path for path, reason in unusable.items() if reason == LOOP]
        ignored: dict[str, list[str]] = {
            "files next to the class folders are ignored": [
                os.path.join(folder.path, name) for name in sorted(folder.images + folder.others)
            ],
            "folders without images are left out": [
                child.path for child in folder.folders if not child.count
            ],
            "files without an image's extension are ignored": [
                os.path.join(below.path, name) for below in inner for name in below.others
            ],
            "links to one of their own parent folders are not followed": loops,
            "broken links, pipes and other special files are ignored": [
                path for path in unusable if path not in loops
            ],
        }
        for sentence, paths in ignored.items():
            if paths:
                names = [os.path.relpath(path, folder.path) for path in paths]
                yield f"{folder.path}: {sentence} ({first_few(names)})"
