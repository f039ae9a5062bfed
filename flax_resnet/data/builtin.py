"""The data sets with a name that fit into memory: digits, MNIST, Fashion-MNIST, CIFAR."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flax_resnet.data import formats
from flax_resnet.data.datasets import Dataset, Split
from flax_resnet.data.formats import (
    DIGIT_CLASSES,
    FASHION_MNIST_CLASSES,
    CifarLayout,
    FormatError,
)
from flax_resnet.data.published import PUBLISHED
from flax_resnet.data.tfds import find_prepared, open_prepared
from flax_resnet.data.tfds.folders import default_folder
from flax_resnet.download import PublishedFile, fetch
from flax_resnet.errors import UserError
from flax_resnet.paths import cache_folder
from flax_resnet.storage import is_remote, local_data, locate

_ALTERNATIVE = "use --config digits, which needs no download"
_PREPARE_AGAIN = "delete it and prepare it again"
# The splits belong to the data set and not to a run: a run with another training seed must see
# the same validation images, or results could not be compared.
_SPLIT_SEED = 0
_DIGITS_TEST = 360  # 20% of 1,797
_Splits = tuple[Split, Split, tuple[str, ...]]
"""Train including validation, test, and the class names."""


@dataclass(frozen=True)
class _Entry:
    """How one data set is stored and read.

    Attributes:
        read: Function from the path of each file, by published name, to the splits.
        files: Published files, each with the name of its extracted form.
        own_folder_only: In the default folder, look only in ``<name>/``, because another data set
            publishes files of the same names.
    """

    read: Callable[[Mapping[str, Path]], _Splits]
    files: Mapping[PublishedFile, str]
    own_folder_only: bool = False


def dataset_names() -> list[str]:
    """Return the names that ``load_dataset`` accepts."""
    return list(_TABLE)


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation: float = 0.1,
    download: bool = True,
) -> Dataset:
    """Load a data set into memory and download it first if it is absent.

    If the original files are absent, a set that TFDS or ``flax-resnet prepare`` has prepared is
    used. TFDS stores the images in another order, so the validation split then differs.

    Args:
        name: One of ``dataset_names()``.
        data_dir: Folder to look in, as ``data_dir/<name>/`` and then ``data_dir/``; by default
            ``downloads/`` in TFDS's folder, ``~/tensorflow_datasets`` or $TFDS_DATA_DIR. A prepared
            set is looked for in ``data_dir``, by default in TFDS's folder.
        validation: Fraction of the training images held out for validation by a fixed stratified
            split, in [0, 1); 0 gives an empty split.
        download: Whether absent files may be downloaded, into ``<name>/``; if ``data_dir`` is in
            object storage, into ``datasets/<name>/`` of the cache folder.

    Raises:
        UserError: The name is unknown, the fraction cannot be held out, or files are absent and
            cannot be downloaded, are damaged, or are those of another data set.
    """
    entry = _TABLE.get(name)
    if entry is None:
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(_TABLE)}")
    if not 0 <= validation < 1:  # this also refuses NaN
        raise UserError(f"validation is {validation}: it must be at least 0 and less than 1")
    full_train, test, classes = _read(name, entry, data_dir, download)
    held_out = round(validation * len(full_train))
    if validation > 0 and held_out == 0:
        raise UserError(
            f"validation is {validation}: this fraction of the {len(full_train)} training images "
            f"of {name} is less than one image; use 0 or a larger fraction"
        )
    try:
        train, validation_split = _stratified(full_train, held_out)
    except ValueError as error:
        raise UserError(
            f"validation is {validation}: the {len(full_train)} training images of {name} cannot "
            f"be split so with every class on both sides ({error}); use another fraction or 0"
        ) from error
    return Dataset(name, classes, train, validation_split, test)


def _read(
    name: str, entry: _Entry, data_dir: str | os.PathLike[str] | None, download: bool
) -> _Splits:
    """Read the original files; without them, read the prepared set or download the files.

    All files come from one folder, because sets with equal file names exist: the labels of one
    must not be combined with the images of another.
    """
    location = f"{default_folder()}/downloads" if data_dir is None else data_dir
    base = local_data(location)
    own_folder = base / name
    own_only = data_dir is None and entry.own_folder_only
    folders = [own_folder] if own_only else [own_folder, base]
    if is_remote(locate(location)):  # whose copy keeps only what is in the store
        own_folder = cache_folder() / "datasets" / name
        folders.append(own_folder)
    found = (_present(entry, folder) for folder in folders)
    paths = next((paths for paths in found if len(paths) == len(entry.files)), None)
    if paths is None and find_prepared(name, data_dir):
        return _read_prepared(name, data_dir)
    if paths is None:
        paths = _download(name, entry, own_folder, folders, download)
    _check_set(name, entry, paths)
    try:
        return entry.read(paths)
    except FormatError as error:
        raise UserError(_advice(error, entry, paths)) from error


def _download(
    name: str, entry: _Entry, own_folder: Path, folders: list[Path], download: bool
) -> dict[str, Path]:
    """Download absent files into ``own_folder``; return the path of each, by published name."""
    paths = _present(entry, own_folder)
    absent = [file for file in entry.files if file.name not in paths]
    if not download:
        sources = "; ".join(f"{file.url} ({file.describe()})" for file in absent)
        raise UserError(
            f"{', '.join(file.name for file in absent)} of {name} not found in "
            f"{' or '.join(map(str, folders))} and downloading is off: download {sources} into "
            f"{own_folder}, or {_ALTERNATIVE}"
        )
    for file in absent:
        paths[file.name] = fetch(file, own_folder / file.name, _ALTERNATIVE)
    return paths


def _present(entry: _Entry, folder: Path) -> dict[str, Path]:
    """Return the path of each file of the entry that is in the folder, by published name."""
    return {
        file.name: path
        for file, extracted in entry.files.items()
        # The published form comes last and so is preferred, because its gzip CRC is checked.
        for path in (folder / extracted, folder / file.name)
        # os.path.exists, unlike Path.exists, is False if a folder may not be entered.
        if os.path.exists(path)
    }


def _check_set(name: str, entry: _Entry, paths: Mapping[str, Path]) -> None:
    """Check that no file is one of another data set, by its published size.

    MNIST and Fashion-MNIST publish files of the same names, shapes and labels. Those that are
    extracted have the same sizes too, so they pass.

    Raises:
        UserError: One is.
    """
    for file in entry.files:
        size = os.path.getsize(paths[file.name])
        if size == file.size:
            continue
        for other, files in PUBLISHED.items():
            if any(one.name == file.name and one.size == size for one in files):
                raise UserError(
                    f"{paths[file.name]} is a file of {other} and not of {name}, by its size of "
                    f"{size} bytes ({name}: {file.size}): name another folder or --data.name "
                    f"{other}, or keep the files of each set in a folder of its name"
                )


def _advice(error: FormatError, entry: _Entry, paths: Mapping[str, Path]) -> str:
    """Return the sentence: which file is wrong and why, what was published, what to do."""
    concerned = [file for file in entry.files if paths[file.name] in error.paths]
    published = "; ".join(f"{file.name}: {file.describe()}, from {file.url}" for file in concerned)
    return (
        f"{' and '.join(map(str, error.paths))}: {error.reason}; "
        f"delete {'it' if len(error.paths) == 1 else 'them'} and run again, "
        f"or download by hand what was published ({published})"
    )


def _stratified(whole: Split, held_out: int) -> tuple[Split, Split]:
    """Split off ``held_out`` images at random, always the same, with each class in proportion.

    Raises:
        ValueError: There are too few images for every class to be on both sides.
    """
    kept, removed = np.arange(len(whole)), np.zeros(0, np.intp)
    if held_out:
        # Imported here, because scikit-learn takes a second to import.
        from sklearn.model_selection import train_test_split

        kept, removed = train_test_split(
            kept, test_size=held_out, stratify=whole.labels, random_state=_SPLIT_SEED
        )
    kept, removed = np.sort(kept), np.sort(removed)
    return (
        Split(whole.images[kept], whole.labels[kept]),
        Split(whole.images[removed], whole.labels[removed]),
    )


def _read_prepared(name: str, data_dir: str | os.PathLike[str] | None) -> _Splits:
    prepared = open_prepared(name, data_dir)
    where = f"the data set in {prepared.folder}"
    splits = []
    for split in ("train", "test"):
        if split not in prepared.splits:
            raise UserError(f"{where} has no split {split!r}: {_PREPARE_AGAIN}")
        batch = prepared.splits[split].gather(np.arange(len(prepared.splits[split])))
        if (batch["label"] < 0).any():
            raise UserError(f"{where} has images without a label in {split}: {_PREPARE_AGAIN}")
        try:
            splits.append(Split(batch["image"], batch["label"]))
        except ValueError as error:
            raise UserError(f"{where} has {error}: {_PREPARE_AGAIN}") from error
    return splits[0], splits[1], prepared.classes


def _read_digits(paths: Mapping[str, Path]) -> _Splits:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    whole = Split(grey[..., np.newaxis], bunch.target.astype(np.int32))
    train, test = _stratified(whole, _DIGITS_TEST)
    return train, test, DIGIT_CLASSES


def _read_mnist(classes: tuple[str, ...], paths: Mapping[str, Path]) -> _Splits:
    train, test = (
        Split(
            *formats.read_idx_pair(
                paths[f"{prefix}-images-idx3-ubyte.gz"],
                paths[f"{prefix}-labels-idx1-ubyte.gz"],
                (28, 28),
                len(classes),
            )
        )
        for prefix in ("train", "t10k")
    )
    return train, test, classes


def _read_cifar(layout: CifarLayout, paths: Mapping[str, Path]) -> _Splits:
    (archive,) = paths.values()
    train, test, classes = formats.read_cifar(archive, layout)
    return Split(*train), Split(*test), classes


_TABLE: dict[str, _Entry] = {
    "digits": _Entry(read=_read_digits, files={}),
    "mnist": _Entry(
        read=partial(_read_mnist, DIGIT_CLASSES),
        files={file: file.name.removesuffix(".gz") for file in PUBLISHED["mnist"]},
        own_folder_only=True,
    ),
    "fashion_mnist": _Entry(
        read=partial(_read_mnist, FASHION_MNIST_CLASSES),
        files={file: file.name.removesuffix(".gz") for file in PUBLISHED["fashion_mnist"]},
        own_folder_only=True,
    ),
    "cifar10": _Entry(
        read=partial(_read_cifar, formats.CIFAR10),
        files=dict.fromkeys(PUBLISHED["cifar10"], formats.CIFAR10.folder),
    ),
    "cifar100": _Entry(
        read=partial(_read_cifar, formats.CIFAR100),
        files=dict.fromkeys(PUBLISHED["cifar100"], formats.CIFAR100.folder),
    ),
}
