"""Images in folders: `root/class/...`, or `root/train/class/...` and other splits beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flax_resnet.data.images.listing import read_listing
from flax_resnet.data.images.records import (
    RATIOS,
    SPLIT_NAMES,
    Entry,
    ImageRecords,
    Ratios,
    assemble,
    check_ratios,
    counted,
    some,
)
from flax_resnet.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_LIST_ENDINGS = (".csv", ".jsonl")
_LAYOUT = "put the images of each class into a folder of its name"


def find_images(
    source: str | os.PathLike[str],
    *,
    ratios: Ratios = RATIOS,
    classes: Sequence[str] | None = None,
) -> ImageRecords:
    """Find the image files of a folder, or of a CSV or JSONL list (`listing.read_listing`).

    A folder holds a folder for each class; or `train` and beside it `val` (or `valid`,
    `validation`) or `test` or both, which do. The images of a class may lie in folders within
    its own, and are told by `ENDINGS`. Hidden files and folders are passed over. Classes are
    numbered in the order of their names, images sorted by path. Links are followed, save where
    they lead back to a folder on the way.

    Args:
        ratios: how images without a split are split, see `records.assemble`.
        classes: the names of the classes in their order; by default the folders of train.

    Raises:
        UserError: nothing there, not laid out so, a folder that cannot be read, a class that
            train (or `classes`) lacks, only one class, or ratios that are none.
    """
    path = os.path.expanduser(os.fspath(source))
    check_ratios(ratios)
    if os.path.isdir(path):
        return _read_folder(path, ratios, classes)
    if os.path.isfile(path) and path.lower().endswith(_LIST_ENDINGS):
        entries, names, notes = read_listing(path, classes)
        return assemble(path, entries, names, ratios, notes)
    if os.path.exists(path):
        raise UserError(f"{path} is neither a folder nor a .csv or .jsonl list: name one of these")
    raise UserError(f"{path} does not exist: name a folder of images or a .csv or .jsonl list")


def _read_folder(root: str, ratios: Ratios, classes: Sequence[str] | None) -> ImageRecords:
    folders, notes = _split_folders(root)
    parts = {split: _read_part(folder) for split, folder in folders.items()}
    notes += [note for part in parts.values() for note in part.notes]
    # Without splits, the one part stands for all.
    train = parts["train"] if "train" in parts else parts[None]
    known = sorted(train.images) if classes is None else list(classes)
    for split, part in parts.items():
        if strange := sorted(set(part.images) - set(known)):
            whose = f"of train ({folders['train']})" if classes is None else "asked for"
            raise UserError(
                f"{folders[split]} has {counted(len(strange), 'class', 'classes')} that "
                f"{'is' if len(strange) == 1 else 'are'} not among those {whose}: "
                f"{some(strange)}; rename or remove these folders"
            )
    labels = {name: label for label, name in enumerate(known)}
    entries = [
        Entry(path, labels[name], split)
        for split, part in parts.items()
        for name in sorted(part.images)
        for path in part.images[name]
    ]
    return assemble(root, entries, known, ratios, notes)


def _split_folders(root: str) -> tuple[dict[str | None, str], list[str]]:
    """Return the folder of each split, or of None where there are no splits; and notes."""
    names, _, _ = _listed(root)
    splits = [name for name in names if name.lower() in SPLIT_NAMES]
    others = [name for name in names if name not in splits]
    found: dict[str | None, str] = {}
    for name in splits:
        split = SPLIT_NAMES[name.lower()]
        if split in found:
            raise UserError(
                f"{root} has two folders for {split}, {os.path.basename(found[split])} and "
                f"{name}: keep one"
            )
        found[split] = os.path.join(root, name)
    if not splits or (others and not ("train" in found and len(found) > 1)):
        return {None: root}, []  # A class may be called "train" or "test".
    if "train" not in found:
        raise UserError(f"{root} has {' and '.join(splits)} but no train: name its folder train")
    with_images = [name for name in others if _has_images(os.path.join(root, name))]
    if with_images:
        raise UserError(
            f"{root} has {', '.join(splits)} and beside them other folders with images "
            f"({some(with_images)}): move these into a split or away"
        )
    notes = [f"{root}: folders without images beside the splits are ignored ({some(others)})"]
    if len(found) == 1:
        found = {None: found["train"]}
    return found, notes if others else []


@dataclass(frozen=True)
class _Part:
    """The images in the class folders of one folder, sorted, by class; none is empty."""

    images: Mapping[str, list[str]]
    notes: list[str]


def _read_part(folder: str) -> _Part:
    """Raise a UserError where there are no class folders with images."""
    names, beside, dead = _listed(folder)
    lone = [name for name in beside if _is_image(name)]
    if not names:
        if lone:
            raise UserError(f"{folder} has images but no class folders: {_LAYOUT}")
        raise UserError(f"{folder} has no images: {_LAYOUT}, such as {folder}/cat/1.jpg")
    above = frozenset({_identity(folder)})
    found = {name: list(_below(os.path.join(folder, name), above)) for name in names}
    images = {
        name: sorted(path for kind, path in files if kind == "image")
        for name, files in found.items()
    }
    empty = [name for name, paths in images.items() if not paths]
    if len(empty) == len(names):
        raise UserError(
            f"{folder}: no images in its folders ({some(names)}): {_LAYOUT}; known endings are "
            f"{' '.join(ENDINGS)}"
        )
    odd: dict[str, list[str]] = {"lone": beside, "empty": empty, "dead": dead}
    for files in found.values():
        for kind, path in files:
            odd.setdefault(kind, []).append(os.path.relpath(path, folder))
    notes = [
        f"{folder}: {sentence} ({some(odd[kind])})"
        for kind, sentence in (
            ("lone", "files beside the class folders are ignored"),
            ("empty", "folders without images are left out"),
            ("other", "files without an image's ending are ignored"),
            ("loop", "links that lead round in a circle are not followed"),
            ("dead", "links that lead nowhere, and pipes and the like, are ignored"),
        )
        if odd.get(kind)
    ]
    return _Part({name: paths for name, paths in images.items() if paths}, notes)


def _has_images(folder: str) -> bool:
    return any(kind == "image" for kind, _ in _below(folder, frozenset()))


_Kind = Literal["image", "other", "loop", "dead"]


def _below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[_Kind, str]]:
    """Yield what there is in a folder and in those within it, but hidden things.

    Args:
        above: the identities of the folders on the way to this one.
    """
    identity = _identity(folder)
    if identity in above:
        yield "loop", folder
        return
    names, files, dead = _listed(folder)
    for name in files:
        yield "image" if _is_image(name) else "other", os.path.join(folder, name)
    for name in dead:
        yield "dead", os.path.join(folder, name)
    for name in names:
        yield from _below(os.path.join(folder, name), above | {identity})


def _listed(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Return the names of the folders, the files and what is neither in a folder, sorted.

    Raises:
        UserError: it cannot be read.
    """
    folders, files, dead = [], [], []
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            # __MACOSX is what macOS leaves in archives.
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):
                dead.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                files.append(entry.name)
            else:  # Reading a pipe would wait for ever.
                dead.append(entry.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror or error}): give yourself the right to, "
            "or move it away"
        ) from error
    return folders, files, dead


def _identity(folder: str) -> tuple[int, int]:
    """Return what tells a folder from any other, by whatever path it is reached."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(ENDINGS)
