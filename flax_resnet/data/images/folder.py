"""Image folders: ``root/class/...``, or ``root/train/class/...`` next to other splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flax_resnet.data.images.decoding import EXTENSIONS
from flax_resnet.data.images.listing import read_listing
from flax_resnet.data.images.records import (
    SPLIT_ALIASES,
    SPLIT_RATIOS,
    Entry,
    SplitRatios,
    SplitRecords,
    assemble,
    check_ratios,
    first_few,
    pluralize,
)
from flax_resnet.errors import UserError
from flax_resnet.paths import expand_text

_LIST_EXTENSIONS = (".csv", ".jsonl")
_LAYOUT = "put the images of each class into a folder of its name"


def find_images(
    source: str | os.PathLike[str],
    *,
    ratios: SplitRatios = SPLIT_RATIOS,
    classes: Sequence[str] | None = None,
) -> SplitRecords:
    """Find the image files of a folder, or of a CSV or JSONL list (``listing.read_listing``).

    A folder has one folder for each class; or it has ``train`` and also ``val`` (or ``valid``,
    ``validation``) or ``test`` or both, and these have the class folders. The images of a class may
    lie in subfolders; they are recognized by ``EXTENSIONS``. Hidden files and folders are skipped.
    Classes are numbered in the order of their names, and images are sorted by path. Symbolic
    links are followed unless they lead back to one of their own parent folders.

    Args:
        source: The folder or the list.
        ratios: Proportions in which images without a split are divided, see ``records.assemble``.
        classes: Class names in their order; by default the folders of train.

    Raises:
        UserError: The source does not exist, has another layout or cannot be read, has only one
            class, has a class that train (or ``classes``) lacks, or the ratios are not valid.
    """
    path = expand_text(source)
    check_ratios(ratios)
    if os.path.isdir(path):
        return _read_folder(path, ratios, classes)
    if os.path.isfile(path) and path.lower().endswith(_LIST_EXTENSIONS):
        entries, names, notes = read_listing(path, classes)
        return assemble(path, entries, names, ratios, notes)
    if os.path.exists(path):
        raise UserError(f"{path} is neither a folder nor a .csv or .jsonl list: name one of these")
    raise UserError(f"{path} does not exist: name a folder of images or a .csv or .jsonl list")


def _read_folder(root: str, ratios: SplitRatios, classes: Sequence[str] | None) -> SplitRecords:
    folders, notes = _split_folders(root)
    splits = {split: _read_class_folders(folder) for split, folder in folders.items()}
    notes += [note for found in splits.values() for note in found.notes]
    # Without splits there is a single entry, with the key None.
    train = splits["train"] if "train" in splits else splits[None]
    known = sorted(train.images) if classes is None else list(classes)
    for split, found in splits.items():
        if unknown := sorted(set(found.images) - set(known)):
            expected = f"of train ({folders['train']})" if classes is None else "expected"
            raise UserError(
                f"{folders[split]} has {pluralize(len(unknown), 'class', 'classes')} that "
                f"{'is' if len(unknown) == 1 else 'are'} not among those {expected}: "
                f"{first_few(unknown)}; rename or remove these folders"
            )
    labels = {name: label for label, name in enumerate(known)}
    entries = [
        Entry(path, labels[name], split)
        for split, found in splits.items()
        for name in sorted(found.images)
        for path in found.images[name]
    ]
    return assemble(root, entries, known, ratios, notes)


def _split_folders(root: str) -> tuple[dict[str | None, str], list[str]]:
    """Return the folder of each split, with the key None if there are no splits; and notes."""
    names, _, _ = _list_folder(root)
    splits = [name for name in names if name.lower() in SPLIT_ALIASES]
    others = [name for name in names if name not in splits]
    found: dict[str | None, str] = {}
    for name in splits:
        split = SPLIT_ALIASES[name.lower()]
        if split in found:
            raise UserError(
                f"{root} has two folders for {split}, {os.path.basename(found[split])} and "
                f"{name}: keep one"
            )
        found[split] = os.path.join(root, name)
    if not splits or (others and not ("train" in found and len(found) > 1)):
        return {None: root}, []  # a class may have the name "train" or "test"
    if "train" not in found:
        raise UserError(f"{root} has {' and '.join(splits)} but no train: name its folder train")
    with_images = [name for name in others if _has_images(os.path.join(root, name))]
    if with_images:
        raise UserError(
            f"{root} has {', '.join(splits)} and also other folders with images "
            f"({first_few(with_images)}): move these into a split or away"
        )
    notes = [f"{root}: folders without images next to the splits are ignored ({first_few(others)})"]
    if len(found) == 1:
        found = {None: found["train"]}
    return found, notes if others else []


@dataclass(frozen=True)
class _ClassFolders:
    """The sorted image paths of each class folder, without empty ones; and notes."""

    images: Mapping[str, list[str]]
    notes: list[str]


def _read_class_folders(folder: str) -> _ClassFolders:
    """Find the images in the class folders of one folder.

    Raises:
        UserError: There are no class folders with images.
    """
    names, files_outside, unusable = _list_folder(folder)
    if not names:
        if any(map(_is_image, files_outside)):
            raise UserError(f"{folder} has images but no class folders: {_LAYOUT}")
        raise UserError(f"{folder} has no images: {_LAYOUT}, such as {folder}/cat/1.jpg")
    parents = frozenset({_identity(folder)})
    found = {name: list(_walk(os.path.join(folder, name), parents)) for name in names}
    images = {
        name: sorted(path for kind, path in files if kind == "image")
        for name, files in found.items()
    }
    empty = [name for name, paths in images.items() if not paths]
    if len(empty) == len(names):
        raise UserError(
            f"{folder}: no images in its folders ({first_few(names)}): {_LAYOUT}; known "
            f"extensions are {' '.join(EXTENSIONS)}"
        )
    ignored: dict[str, list[str]] = {
        "outside": files_outside,
        "empty": empty,
        "unusable": unusable,
    }
    for files in found.values():
        for kind, path in files:
            ignored.setdefault(kind, []).append(os.path.relpath(path, folder))
    notes = [
        f"{folder}: {sentence} ({first_few(ignored[kind])})"
        for kind, sentence in (
            ("outside", "files next to the class folders are ignored"),
            ("empty", "folders without images are left out"),
            ("other", "files without an image's extension are ignored"),
            ("loop", "links to one of their own parent folders are not followed"),
            ("unusable", "broken links, pipes and other special files are ignored"),
        )
        if ignored.get(kind)
    ]
    return _ClassFolders({name: paths for name, paths in images.items() if paths}, notes)


def _has_images(folder: str) -> bool:
    return any(kind == "image" for kind, _ in _walk(folder, frozenset()))


_Kind = Literal["image", "other", "loop", "unusable"]


def _walk(folder: str, parents: frozenset[tuple[int, int]]) -> Iterator[tuple[_Kind, str]]:
    """Yield the kind and the path of everything below a folder that is not hidden.

    Args:
        folder: The folder to walk.
        parents: Identities of the folders through which it was reached.
    """
    identity = _identity(folder)
    if identity in parents:
        yield "loop", folder
        return
    names, files, unusable = _list_folder(folder)
    for name in files:
        yield "image" if _is_image(name) else "other", os.path.join(folder, name)
    for name in unusable:
        yield "unusable", os.path.join(folder, name)
    for name in names:
        yield from _walk(os.path.join(folder, name), parents | {identity})


def _list_folder(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Return the sorted names of the folders, of the files, and of everything else in a folder.

    Raises:
        UserError: The folder cannot be read.
    """
    folders, files, unusable = [], [], []
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            # macOS leaves __MACOSX in archives.
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):
                unusable.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                files.append(entry.name)
            else:  # reading a pipe could wait forever
                unusable.append(entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror or error}): give yourself the permission "
            "to read it, or move it away"
        ) from error
    return folders, files, unusable


def _identity(folder: str) -> tuple[int, int]:
    """Return device and inode, which identify a folder whatever path leads to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)
