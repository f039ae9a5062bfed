"""Which folders of a tree are classes and which are splits; two readings are refused."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flax_resnet.data.images.decoding import EXTENSIONS
from flax_resnet.data.images.records import first_few
from flax_resnet.data.images.splits import (
    SPLITS,
    UNLABELED,
    is_neutral,
    same_name,
    splits_of,
)
from flax_resnet.data.images.tree import Folder
from flax_resnet.errors import UserError

_LAYOUT = "put the images of each class into a folder of its name"
_AS_LIST = "list the files and their labels in a .csv"
_OWN_NAMES = ("train", "val", "valid", "validation", "test")
_SAME_NAMES = 2  # folders that two folders have in common make these look like splits


@dataclass(frozen=True)
class Layout:
    """The folders of a data set.

    Attributes:
        splits: For each split the folder that has its class folders; without splits there is a
            single one, with the key None.
        notes: Sentences for the user.
        left_out: Reason for each image that is in none of them.
    """

    splits: dict[str | None, Folder]
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def find_layout(root: Folder, classes: Collection[str] | None = None) -> Layout:
    """Find out which folders are classes and which are splits.

    Folders with names of splits (``splits_of``) are splits if they have class folders. A folder
    that is alone in its parent and named like it, or in neutral words, or that has the splits, is
    used in the parent's place.

    Args:
        root: The data set's folder.
        classes: Names of the classes where they are known, such as those of a trained model; then
            no training split is needed.

    Raises:
        UserError: There are no class folders, or the folders can be read as splits and as classes.
    """
    found = Layout({})
    root = _descend(root, classes, found)
    folders = root.folders_with_images
    if folders and classes is not None and all(folder.name in classes for folder in folders):
        found.splits[None] = root
        return found
    names = splits_of(folder.name for folder in root.folders)
    splits = [folder for folder in root.folders if folder.name in names]
    others = [folder for folder in folders if folder.name not in names]
    if any(map(_has_class_folders, splits)) and not _are_classes(splits, others):
        if others:
            raise UserError(_splits_and_others(root, splits, others))
        _use_splits(root, splits, names, classes, found)
    else:
        _refuse_flat_splits(root, splits, others, names)
        _refuse_same_names(root, folders)
        found.splits[None] = root
    return found


def _descend(root: Folder, classes: Collection[str] | None, found: Layout) -> Folder:
    """Return the folder that has the class folders or splits, at most a few levels down."""
    while True:
        inner = root.folders_with_images
        if len(inner) != 1 or inner[0].name in (classes or ()):
            return root
        (child,) = inner
        names = splits_of(folder.name for folder in child.folders)
        has_splits = any(f.name in names and _has_class_folders(f) for f in child.folders)
        is_wrapper = same_name(child.name, root.name) or is_neutral(child.name)
        if splits_of([child.name]) or not (
            has_splits or (is_wrapper and child.folders_with_images)
        ):
            return root
        _note_nesting(root, child, found)
        root = child


def _note_nesting(parent: Folder, child: Folder, found: Layout) -> None:
    found.notes.append(f"{parent.path}: its only folder of images, {child.path}, is used instead")
    reason = f"is outside {child.path}, which is used instead of {parent.path}"
    found.left_out.update({os.path.join(parent.path, name): reason for name in parent.images})


def _has_class_folders(folder: Folder) -> bool:
    """Return whether a folder has images in folders only, as a split does."""
    return bool(folder.folders_with_images) and not folder.images


def _refuse_flat_splits(
    root: Folder, splits: Sequence[Folder], others: Sequence[Folder], names: Mapping[str, str]
) -> None:
    """Refuse folders such as ``train`` and ``test`` whose images are in no class folders.

    A single one next to other folders is a class, such as ``train`` next to ``bus``.
    """
    flat = [folder for folder in splits if folder.images]
    given = {names[folder.name] for folder in flat} - {UNLABELED}
    if len(flat) == 1 and not others and given:
        raise UserError(f"{flat[0].path} has images but no class folders: {_LAYOUT}")
    if len(given) > 1 and (not others or "train" in given):
        listed = _listed(flat)
        raise UserError(
            f"{root.path} has {listed} with images but without class folders: if these are splits, "
            f"{_LAYOUT} in each of them, or {_AS_LIST}; if they are classes, rename them"
        )


def _refuse_same_names(root: Folder, folders: Sequence[Folder]) -> None:
    """Refuse folders that hold the same folders, which may be splits as well as classes."""
    inner = {
        folder.name: {child.name for child in folder.folders_with_images}
        for folder in folders
        if not folder.images
    }
    siblings = {folder.name for folder in folders}
    for name, children in inner.items():
        if len(same := sorted(children & siblings)) >= _SAME_NAMES:
            raise UserError(
                f"{os.path.join(root.path, name)} has folders of the same names as the folders "
                f"next to it ({first_few(same)}): if it is a copy of them or a split, move it "
                f"away; if it is a class, rename its folders or {_AS_LIST}"
            )
    counts = Counter(child for children in inner.values() for child in children)
    shared = {name for name, count in counts.items() if count > 1}
    candidates = [
        (name, children & shared)
        for name, children in inner.items()
        if len(children & shared) >= _SAME_NAMES
    ]
    for number, (one, its) in enumerate(candidates):
        for other, others in candidates[number + 1 :]:
            if len(same := sorted(its & others)) >= _SAME_NAMES:
                raise UserError(
                    f"{root.path} has folders that hold the same folders, such as {one} and "
                    f"{other} ({first_few(same)}): if they are splits, name them train, val and "
                    f"test; if they are classes, move the images out of the inner folders or "
                    f"{_AS_LIST}"
                )


def _are_classes(splits: Sequence[Folder], others: Sequence[Folder]) -> bool:
    """Return whether a folder with the name of a split can only be a class: it is alone among
    others and has a single folder, because a split has two classes at least."""
    return len(splits) == 1 and len(splits[0].folders_with_images) == 1 and bool(others)


def _splits_and_others(root: Folder, splits: Sequence[Folder], others: Sequence[Folder]) -> str:
    """Return the message about folders of images next to splits."""
    names = first_few([folder.name for folder in others])
    message = f"{root.path} has {_listed(splits)}, and also other folders with images ({names})"
    known = {child.name for split in splits for child in split.folders_with_images}
    same = sorted(known & {child.name for f in others for child in f.folders_with_images})
    if same:
        message += f", some with the same folders ({first_few(same)})"
    if len(splits) > 1:
        return f"{message}: move these into a split or away"
    return (
        f"{message}: if {splits[0].name} is a split, move these into a split or away; if it is a "
        "class, rename it"
    )


def _use_splits(
    root: Folder,
    splits: Sequence[Folder],
    names: Mapping[str, str],
    classes: Collection[str] | None,
    found: Layout,
) -> None:
    """Enter the folders of the splits, all of which have a split's name."""
    by_split: dict[str, Folder] = {}
    for folder in splits:
        split = names[folder.name]
        if split in by_split and split != UNLABELED:
            raise UserError(
                f"{root.path} has two folders for {split}, {by_split[split].name} and "
                f"{folder.name}: keep one"
            )
        by_split[split] = folder
    if "train" not in by_split and classes is None:
        raise UserError(
            f"{root.path} has {_listed(splits)} but no train: name the folder of the training "
            "images train"
        )
    if renamed := [
        f"{f.name} is used as {names[f.name]}"
        for f in splits
        if names[f.name] != UNLABELED and f.name.lower() not in _OWN_NAMES
    ]:
        found.notes.append(f"{root.path}: {', '.join(renamed)}")
    known = set(classes or ())
    for split in (*SPLITS, UNLABELED):
        if split not in by_split:
            continue
        folder = by_split[split]
        inner = _inside_wrappers(folder, known)
        if split == UNLABELED or (split != "train" and _is_unlabeled(inner, known)):
            found.notes.append(f"{folder.path}: its images have no labels and are left out")
            reason = f"has no label: it is in no class folder of {folder.path}"
            found.left_out.update(dict.fromkeys(folder.image_paths(), reason))
            continue
        if inner is not folder:
            _note_nesting(folder, inner, found)
        found.splits[split] = inner
        known |= {child.name for child in inner.folders_with_images}
    if list(found.splits) == ["train"]:
        found.splits[None] = found.splits.pop("train")
    if ignored := [folder.name for folder in root.folders if folder.name not in names]:
        found.notes.append(
            f"{root.path}: folders without images next to the splits are ignored "
            f"({first_few(ignored)})"
        )


def _inside_wrappers(split: Folder, known: Collection[str]) -> Folder:
    """Return the folder that has the class folders of a split, as in ``train/train/cat``."""
    folder = split
    while len(folder.folders_with_images) == 1 and not folder.images:
        (child,) = folder.folders_with_images
        if child.name in known or not (same_name(child.name, split.name) or is_neutral(child.name)):
            break
        folder = child
    return folder


def _is_unlabeled(folder: Folder, known: Collection[str]) -> bool:
    """Return whether the images of a split have no labels: they are in no class folders, or all
    in one that is called ``unknown``."""
    inner = [child.name for child in folder.folders_with_images]
    if not inner:
        return bool(folder.images)
    return len(inner) == 1 and inner[0] not in known and inner[0].lower() == "unknown"


def _listed(folders: Sequence[Folder]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def no_images(folder: Folder) -> UserError:
    """Return the error about a folder that has no class folders with images."""
    if folder.images:
        return UserError(f"{folder.path} has images but no class folders: {_LAYOUT}")
    if folder.folders:
        names = first_few([child.name for child in folder.folders])
        return UserError(
            f"{folder.path}: no images in its folders ({names}): {_LAYOUT}; known extensions are "
            f"{' '.join(EXTENSIONS)}"
        )
    return UserError(f"{folder.path} has no images: {_LAYOUT}, such as {folder.path}/cat/1.jpg")
