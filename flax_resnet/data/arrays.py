"""Data sets in one ``.npz`` file of images and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flax_resnet.data.datasets import Dataset, Split
from flax_resnet.data.images import (
    SPLIT_ALIASES,
    SPLIT_RATIOS,
    SPLITS,
    SplitRatios,
    check_ratios,
    content_fraction,
    divide,
)
from flax_resnet.errors import UserError
from flax_resnet.host_memory import host_limit
from flax_resnet.paths import expand_text

_IMAGE_KEYS = ("x", "image", "images")
_LABEL_KEYS = ("y", "label", "labels")
# The split of each suffix of a key, as in x_train.
_SUFFIXES = {f"_{name}": split for name, split in SPLIT_ALIASES.items()} | {"": None}
_CLASSES_KEY = "classes"
_KEYS = {key + suffix for key in (*_IMAGE_KEYS, *_LABEL_KEYS) for suffix in _SUFFIXES}
# What a file may unpack to: so many times its own size, because photos hardly compress, or 1 GB,
# because drawings do.
_MOST_COMPRESSION = 16
_SMALL_BYTES = 1_000_000_000
_EXPECTED = (
    "save uint8 images [N, H, W, C] as x_train and labels [N] as y_train, or image and label"
)


def read_arrays(path: str | os.PathLike[str], *, ratios: SplitRatios = SPLIT_RATIOS) -> Dataset:
    """Read a data set into memory.

    The file has ``x_train`` and ``y_train``, and optionally ``x_val``, ``y_val``, ``x_test``,
    ``y_test``; or only ``image`` and ``label``. Images are uint8 ``[N, H, W, C]`` with any
    number of channels, or ``[N, H, W]``; labels are integers ``[N]`` from 0. ``classes`` may hold
    the class names, as text, as bytes in UTF-8, or as whole numbers. Other arrays are not read.
    Images without a split get one by their content, like image files
    (``images.records.assemble``).

    Args:
        path: Path of the file.
        ratios: Proportions in which images without a split are divided.

    Raises:
        UserError: The file cannot be read or unpacks to too much, or its arrays have other shapes
            or types or do not fit together.
    """
    check_ratios(ratios)
    name = expand_text(path)
    names, arrays = _load(name)
    found: dict[str | None, Split] = {}
    for suffix, split in _SUFFIXES.items():
        images = _find_key(name, arrays, _IMAGE_KEYS, suffix)
        labels = _find_key(name, arrays, _LABEL_KEYS, suffix)
        if (images is None) != (labels is None):
            missing = "labels" if labels is None else "images"
            raise UserError(f"{name} has {images or labels} but not its {missing}: {_EXPECTED}")
        if images is not None and labels is not None:
            if split in found or (found and split is None):
                raise UserError(f"{name} has {images} and another form of it: keep one")
            found[split] = _split(name, images, arrays[images], labels, arrays[labels])
    if None not in found and "train" not in found:
        raise UserError(f"{name} has the arrays {', '.join(names) or 'none'}: {_EXPECTED}")
    shapes = {split.images.shape[1:] for split in found.values()}
    if len(shapes) > 1:
        raise UserError(f"{name} has images of several sizes: {sorted(shapes)}; save one size")
    classes = _classes(name, arrays, [split.labels for split in found.values()])
    splits = _with_all_splits(found, ratios)
    train, validation, test = (splits[split] for split in SPLITS)
    return Dataset(Path(name).stem, classes, train, validation, test)


def _load(path: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of all arrays of a file, and those arrays that may be images, labels or the
    class names."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} is one array and not an .npz of several: {_EXPECTED}")
        with file:
            wanted = [name for name in file.files if name in _KEYS | {_CLASSES_KEY}]
            assert file.zip is not None  # as it is until the file is closed
            members = file.zip.infolist()
            total = sum(one.file_size for one in members if _key(one.filename) in wanted)
            _check_size(path, total)
            arrays = {name: file[name] for name in wanted}
        # NumPy returns a member that is not an array as bytes.
        if others := [name for name, array in arrays.items() if isinstance(array, bytes)]:
            raise ValueError(f"{others[0]} is no array")
        return file.files, arrays
    except UserError:
        raise
    # Any exception: on damaged files NumPy also raises what zipfile, zlib and its header parser run
    # into (RuntimeError, TokenError and more), or it requests absurd amounts of memory.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as .npz ({reason}): {_EXPECTED}") from error


def _key(member: str) -> str:
    return member.removesuffix(".npy")


def _check_size(path: str, total: int) -> None:
    """Check what the arrays of a file unpack to, before they are read into memory.

    Raises:
        UserError: It is more than the memory of the machine or the container, or so much more than
            the file's size that the file was made to fill the memory.
    """
    if total > max(_MOST_COMPRESSION * os.path.getsize(path), _SMALL_BYTES):
        raise UserError(
            f"{path} unpacks to {total:,} bytes, more than {_MOST_COMPRESSION} times its size: "
            "save it again by np.savez, without compression, if its images are so uniform"
        )
    memory, where = host_limit()
    if memory is not None and total > memory:
        raise UserError(
            f"{path} unpacks to {total:,} bytes, more than the memory of {where} ({memory:,} "
            "bytes): save its images as files in a folder for each class"
        )


def _find_key(
    path: str, arrays: Mapping[str, np.ndarray], keys: tuple[str, ...], suffix: str
) -> str | None:
    """Return the key that the file has with this suffix, or None."""
    found = [key + suffix for key in keys if key + suffix in arrays]
    if len(found) > 1:
        raise UserError(f"{path} has {' and '.join(found)}: keep one")
    return found[0] if found else None


def _split(path: str, image: str, images: np.ndarray, label: str, labels: np.ndarray) -> Split:
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or not _are_last(images.shape):
        raise UserError(
            f"{path}: {image} is {images.dtype} {list(images.shape)}; it must be uint8 (0 to 255) "
            "[N, H, W, C] with the channels last, and fewer of them than pixels in a row or column"
        )
    if labels.shape == (len(images), 1):  # the shape of Keras's labels
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise UserError(
            f"{path}: {label} is {labels.dtype} {list(labels.shape)}; it must be one whole number "
            f"for each of the {len(images)} images of {image}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < np.iinfo(np.int32).max:
        raise UserError(
            f"{path}: {label} has labels from {labels.min()} to {labels.max()}, out of range; they "
            "count from 0"
        )
    return Split(images, labels.astype(np.int32))


def _are_last(shape: tuple[int, ...]) -> bool:
    """Return whether the last of ``[N, H, W, C]`` can only be the channels."""
    *_, height, width, channels = shape
    return channels in (1, 3) or 1 < channels < min(height, width)


def _classes(
    path: str, arrays: Mapping[str, np.ndarray], labels: list[npt.NDArray[np.int32]]
) -> tuple[str, ...]:
    """Return the class names, which are the numbers if the file has none."""
    all_labels = np.concatenate(labels)
    if not len(all_labels):
        raise UserError(f"{path} has no images: {_EXPECTED}")
    largest = int(all_labels.max())
    if _CLASSES_KEY in arrays:
        names = _class_names(path, arrays[_CLASSES_KEY].ravel())
        if largest >= len(names):
            raise UserError(
                f"{path} has the label {largest}, out of range for its {len(names)} classes: they "
                "count from 0"
            )
    else:
        if largest >= len(all_labels):
            raise UserError(
                f"{path} has the label {largest} but only {len(all_labels)} images, so the labels "
                "are no class numbers: number the classes from 0"
            )
        names = tuple(map(str, range(largest + 1)))
    if len(set(all_labels.tolist())) < 2:
        raise UserError(f"{path} has images of one class only: a classifier needs two or more")
    return names


def _class_names(path: str, names: np.ndarray) -> tuple[str, ...]:
    """Return class names as text.

    Raises:
        UserError: They are neither text nor whole numbers.
    """
    if names.dtype.kind == "S":
        try:
            return tuple(name.decode() for name in names.tolist())
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: {_CLASSES_KEY} has {error.object!r}, which is not text in UTF-8; save "
                "the names as text"
            ) from error
    if names.dtype.kind not in "Uiu":
        raise UserError(
            f"{path}: {_CLASSES_KEY} is {names.dtype}; save the names as text, such as "
            'np.array(["cat", "dog"])'
        )
    return tuple(map(str, names))


def _with_all_splits(found: Mapping[str | None, Split], ratios: SplitRatios) -> dict[str, Split]:
    """Return train, validation and test, some of which may be empty."""
    if None in found:
        return _by_content(found[None], ratios)
    splits = {split: found[split] for split in SPLITS if split in found}
    if "validation" not in splits:
        divided = _by_content(splits["train"], (ratios[0], ratios[1], 0))
        splits |= {split: divided[split] for split in ("train", "validation")}
    empty = Split(splits["train"].images[:0], splits["train"].labels[:0])
    return {split: splits.get(split, empty) for split in SPLITS}


def _by_content(whole: Split, ratios: SplitRatios) -> dict[str, Split]:
    fractions = [content_fraction(image.tobytes()) for image in whole.images]
    names = np.array(divide(fractions, whole.labels.tolist(), ratios))
    return {
        split: Split(whole.images[names == split], whole.labels[names == split]) for split in SPLITS
    }
