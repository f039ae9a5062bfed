"""Sets of shards: a folder of tar files (WebDataset) or of Parquet files with their images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from flax_resnet.data.images.matching import Namings
from flax_resnet.data.images.members import Member, Shard
from flax_resnet.data.images.records import (
    Entry,
    Records,
    SplitRecords,
    assemble,
    first_few,
    pluralize,
)
from flax_resnet.data.images.shards.index import Scan, ScanFile, open_shards
from flax_resnet.data.images.shards.labels import CLASSES_FILE, Samples, label_samples
from flax_resnet.data.images.shards.parquet import SPLIT, scan_parquet
from flax_resnet.data.images.shards.tar import scan_tar
from flax_resnet.data.images.splits import (
    SPLIT_ALIASES,
    UNLABELED,
    SplitRatios,
    split_words,
    splits_of,
)
from flax_resnet.data.images.tree import is_ignored
from flax_resnet.errors import UserError


@dataclass(frozen=True)
class ShardFormat:
    """A format of shards.

    Attributes:
        extensions: Those of its files; the compressed ones are refused when they are read.
        scan: Function that finds the images of a shard.
    """

    extensions: tuple[str, ...]
    scan: ScanFile


SHARD_FORMATS = {
    "webdataset": ShardFormat((".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz"), scan_tar),
    "parquet": ShardFormat((".parquet",), scan_parquet),
}
"""The formats of shards, by their ``--data.name``."""


def shard_format(path: str) -> str | None:
    """Return the format of a shard or of the shards in a folder and below it; None if it has none.

    Raises:
        UserError: A folder has shards of two formats.
    """
    if not os.path.isdir(path):
        return _format_of(path)
    found = {form: name for name in _files(path) if (form := _format_of(name))}
    if len(found) > 1:
        raise UserError(
            f"{path} has shards of two formats, such as {' and '.join(found.values())}: name one "
            f"by --data.name {' or '.join(found)}, or the folder of one"
        )
    return next(iter(found), None)


def find_shards(
    path: str,
    form: str,
    *,
    ratios: SplitRatios,
    classes: Sequence[str] | None = None,
    other_names: Namings = MappingProxyType({}),
    columns: Sequence[str] | None = None,
) -> SplitRecords:
    """Find the images of a shard, or of all shards in a folder and below it.

    Images are in the order of the shards' names, and within a shard in its own. Names of shards
    name their splits, as ``train-0001.tar`` or ``test/0001.parquet`` do; or a Parquet column
    ``split`` does. What cannot be used is in ``left_out``.

    Args:
        path: The shard or the folder.
        form: Its format, a key of ``SHARD_FORMATS``.
        ratios: Proportions in which images without a split are divided, see ``records.assemble``.
        classes, other_names: As for ``find_images``.
        columns: The image and its label: extensions such as ``jpg,cls`` or ``jpg,json.label``, or
            columns such as ``image,label``; by default they are recognized.

    Raises:
        UserError: A shard cannot be read, or what is in the shards can be understood in two ways.
    """
    if columns is not None and len(columns) != 2:
        raise UserError(
            f"--columns {','.join(columns)}: name the image and its label, such as jpg,cls or "
            "image,label",
            exit_code=2,
        )
    root, names = _shards(path, form)
    split_of, unlabeled = _splits_of_names(path, names)
    found = dict(
        zip(
            names,
            open_shards(root, names, SHARD_FORMATS[form].scan, tuple(columns or ())),
            strict=True,
        )
    )
    left_out = {
        os.path.join(shard.path, member) if member else shard.path: reason
        for shard, scan in found.values()
        for member, reason in scan.left_out.items()
    }
    for name in unlabeled:
        shard, scan = found.pop(name)
        left_out |= dict.fromkeys(
            (os.path.join(shard.path, one) for one in scan.names), "has no label"
        )
    samples = _samples(path, list(found.values()))
    names_file = Path(root) / CLASSES_FILE
    given = columns[1] if columns else None
    if not samples.members:
        raise UserError(
            f"{path} has no images that can be used"
            + (f": {first_few([f'{one} {why}' for one, why in left_out.items()])}" * bool(left_out))
        )
    known, labels, notes = label_samples(samples, given, names_file, classes, other_names)
    of_names = [split_of.get(name) for name, (_, scan) in found.items() for _ in scan.names]
    splits = _with_column(samples, of_names)
    entries = []
    for member, label, split in zip(samples.members, labels, splits, strict=True):
        if label is None:
            left_out[member] = "has no label"
        else:
            entries.append(Entry(member, label, split))
    present = {entry.split for entry in entries}
    if None not in present and "train" not in present and classes is None:
        raise UserError(
            f"{path} has shards of {' and '.join(sorted(map(str, present)))} but none of train: "
            "name those of the training images train"
        )
    if entries and len(known) == 1 and classes is None:
        raise UserError(
            f"{path} has one class only, {known[0]!r}: a classifier needs images of two or more"
        )
    return assemble(path, entries, known, ratios, notes, left_out)


def shard_numbers(records: Records) -> npt.NDArray[np.int64]:
    """Return the number of the shard that each image is in, int64 ``[N]``, from 0 in order.

    Raises:
        UserError: The images are not in shards.
    """
    shards: dict[int, int] = {}
    numbers = []
    for path in records.paths:
        if not isinstance(path, Member):
            raise UserError(
                f"--data.shuffle shards is for data sets in shards, and {path} is a file of its "
                "own: leave it out",
                exit_code=2,
            )
        numbers.append(shards.setdefault(id(path.shard), len(shards)))
    return np.array(numbers, np.int64)


def left_out_note(source: str, left_out: Mapping[str, str]) -> list[str]:
    """Return a sentence about what is left out of shards, if anything is."""
    if not left_out:
        return []
    some = first_few([f"{name} {reason}" for name, reason in left_out.items()])
    return [f"{source}: left out {pluralize(len(left_out), 'member', 'members')} ({some})"]


def _format_of(name: str) -> str | None:
    return next(
        (form for form, one in SHARD_FORMATS.items() if name.lower().endswith(one.extensions)), None
    )


def _files(root: str) -> list[str]:
    """Return the paths below a folder of its files and those of its folders, sorted."""
    found = []
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not is_ignored(name))
        relative = os.path.relpath(folder, root)
        if relative.count(os.sep) > 8:  # a link to one of its parents
            inner[:] = []
        found += [
            os.path.normpath(os.path.join(relative, name)) for name in names if not is_ignored(name)
        ]
    return sorted(found)


def _shards(path: str, form: str) -> tuple[str, list[str]]:
    """Return the folder of the index, and the paths of the shards in it."""
    if os.path.isfile(path):
        if _format_of(path) != form:
            raise UserError(
                f"{path} is not in the format {form}, whose files end in "
                f"{SHARD_FORMATS[form].extensions[0]}: name another --data.name or --data.dir"
            )
        return os.path.dirname(path) or ".", [os.path.basename(path)]
    if not os.path.isdir(path):
        raise UserError(f"{path} does not exist: name a folder of shards, or a shard")
    names = [name for name in _files(path) if _format_of(name) == form]
    if not names:
        raise UserError(
            f"{path} has no file that ends in {SHARD_FORMATS[form].extensions[0]}: name a folder "
            f"of shards in the format {form}"
        )
    return path, names


def _splits_of_names(path: str, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the split of each shard by its name, if they have some; and the shards that are named
    as without labels.

    Raises:
        UserError: Some names have a split and others none, or they are those of several sets.
    """
    stems = {name: os.path.splitext(name)[0].replace(os.sep, "/") for name in names}
    found = splits_of(stems.values())
    split_of = {name: found[stem] for name, stem in stems.items() if stem in found}
    lacking = [name for name in names if name not in split_of]
    if split_of and lacking:
        raise UserError(
            f"{path}: {next(iter(split_of))} has a split in its name, and {first_few(lacking)} has "
            "none: rename these, move them away, or name one of the folders"
        )
    words = {stem: split_words(stem) for stem in stems.values()}
    if not split_of and len(set(words.values())) > 1:
        some = {one: stem for stem, one in words.items()}
        raise UserError(
            f"{path} could hold several data sets or splits, as its shards "
            f"{first_few(sorted(some.values()))} show: name the folder of one, or rename them to "
            "train-0000, validation-0000 and so on"
        )
    unlabeled = [name for name, split in split_of.items() if split == UNLABELED]
    return {name: one for name, one in split_of.items() if one != UNLABELED}, unlabeled


def _samples(path: str, found: Sequence[tuple[Shard, Scan]]) -> Samples:
    """Join what is in the shards."""
    members = [
        Member(os.path.join(shard.path, name), shard, row)
        for shard, scan in found
        for row, name in enumerate(scan.names)
    ]
    keys = dict.fromkeys(key for _, scan in found for key in scan.fields)
    fields = {
        key: [
            value for _, scan in found for value in scan.fields.get(key, [None] * len(scan.names))
        ]
        for key in keys
    }
    declared: dict[str, Sequence[str]] = {}
    first: dict[str, str] = {}
    for shard, scan in found:
        for key in scan.fields:
            own = tuple(scan.class_names.get(key, ()))
            if scan.names and declared.setdefault(key, own) != own:
                raise UserError(
                    f"{shard.path} and {first[key]} have other class names in {key}: they are of "
                    "different data sets; name the folder of one"
                )
            first.setdefault(key, shard.path)
    return Samples(path, members, fields, {key: one for key, one in declared.items() if one})


def _with_column(samples: Samples, splits: Sequence[str | None]) -> list[str | None]:
    """Return the split of each image, from the name of its shard or from a column."""
    column = samples.fields.get(SPLIT)
    if column is None:
        return list(splits)
    found: list[str | None] = []
    for member, value, split in zip(samples.members, column, splits, strict=True):
        own = SPLIT_ALIASES.get(str(value).strip().lower())
        if own is None or (split is not None and split != own):
            raise UserError(
                f"{member}: its split is {value!r} by the column {SPLIT}"
                + (f" and {split} by the name of its shard" if split else "")
                + f"; it must be one of {', '.join(SPLIT_ALIASES)}, and the same"
            )
        found.append(own)
    return found
