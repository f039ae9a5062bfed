"""Images and labels in one `.npz` file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flax_resnet.data.datasets import Dataset, Split
from flax_resnet.data.images.records import RATIOS, SPLITS, Ratios, check_ratios, split_of_content
from flax_resnet.errors import UserError

_IMAGE_KEYS = ("x", "image", "images")
_LABEL_KEYS = ("y", "label", "labels")
# Endings of the keys, as in x_train.
_ENDINGS = {
    "_train": "train",
    "_val": "validation",
    "_valid": "validation",
    "_validation": "validation",
    "_test": "test",
    "": None,
}
_EXPECTED = (
    "save uint8 images [N, H, W, C] as x_train and labels [N] as y_train, or image and label"
)


def read_arrays(path: str | os.PathLike[str], *, ratios: Ratios = RATIOS) -> Dataset:
    """Read a data set into memory.

    The file holds `x_train` and `y_train`, and perhaps `x_val`, `y_val`, `x_test`, `y_test`; or
    `image` and `label` alone. Images are uint8 [N, H, W, C] with one or three channels, or
    [N, H, W]; labels are integers [N] from 0. `classes` may hold the names of the classes.
    Images without a split get one by their content, as files do (`records.assemble`).

    Raises:
        UserError: the file cannot be read, or its arrays are not such or do not fit together.
    """
    check_ratios(ratios)
    name = os.path.expanduser(os.fspath(path))
    arrays = _load(name)
    found: dict[str | None, Split] = {}
    for ending, split in _ENDINGS.items():
        images = _pick(name, arrays, _IMAGE_KEYS, ending)
        labels = _pick(name, arrays, _LABEL_KEYS, ending)
        if (images is None) != (labels is None):
            raise UserError(
                f"{name} has {images or labels} but not what belongs to it: {_EXPECTED}"
            )
        if images is not None and labels is not None:
            if split in found or (found and split is None):
                raise UserError(f"{name} has {images} and another form of it: keep one")
            found[split] = _split(name, images, arrays[images], labels, arrays[labels])
    if None not in found and "train" not in found:
        raise UserError(f"{name} has the arrays {', '.join(arrays) or 'none'}: {_EXPECTED}")
    shapes = {part.images.shape[1:] for part in found.values()}
    if len(shapes) > 1:
        raise UserError(f"{name} has images of several sizes: {sorted(shapes)}; save one size")
    classes = _classes(name, arrays, [part.labels for part in found.values()])
    parts = _with_all_splits(found, ratios)
    return Dataset(Path(name).stem, classes, parts["train"], parts["validation"], parts["test"])


def _load(path: str) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} is one array and not an .npz of several: {_EXPECTED}")
        with file:
            arrays = dict(file)
        # Of a member that is no array NumPy gives the bytes.
        if strange := [name for name, array in arrays.items() if isinstance(array, bytes)]:
            raise ValueError(f"{strange[0]} is no array")
        return arrays
    except UserError:
        raise
    # Any: on damaged files NumPy also lets through what zipfile, zlib and its parser of headers
    # stumble over (RuntimeError, TokenError and more), or asks for absurd amounts of memory.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as .npz ({reason}): {_EXPECTED}") from error


def _pick(
    path: str, arrays: Mapping[str, np.ndarray], keys: tuple[str, ...], ending: str
) -> str | None:
    """Return which of the keys the file has with this ending, if any."""
    found = [key + ending for key in keys if key + ending in arrays]
    if len(found) > 1:
        raise UserError(f"{path} has {' and '.join(found)}: keep one")
    return found[0] if found else None


def _split(path: str, image: str, images: np.ndarray, label: str, labels: np.ndarray) -> Split:
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(
            f"{path}: {image} is {images.dtype} {list(images.shape)}; it must be uint8 (0 to 255) "
            "[N, H, W, C] with one or three channels, last"
        )
    if labels.shape == (len(images), 1):  # as Keras has them
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


def _classes(
    path: str, arrays: Mapping[str, np.ndarray], labels: list[npt.NDArray[np.int32]]
) -> tuple[str, ...]:
    together = np.concatenate(labels)
    if not len(together):
        raise UserError(f"{path} has no images: {_EXPECTED}")
    largest = int(together.max())
    if "classes" in arrays:
        names = tuple(map(str, arrays["classes"].ravel()))
        if largest >= len(names):
            raise UserError(
                f"{path} has the label {largest}, out of range for its {len(names)} classes: they "
                "count from 0"
            )
    else:
        if largest >= len(together):
            raise UserError(
                f"{path} has the label {largest} but {len(together)} images, so it is no class's "
                "number: number the classes from 0"
            )
        names = tuple(map(str, range(largest + 1)))
    if len(set(together.tolist())) < 2:
        raise UserError(f"{path} has images of one class only: a classifier needs two or more")
    return names


def _with_all_splits(found: Mapping[str | None, Split], ratios: Ratios) -> dict[str, Split]:
    """Return train, validation and test, where some may be empty."""
    if None in found:
        return _by_content(found[None], ratios)
    parts = {split: found[split] for split in SPLITS if split in found}
    if "validation" not in parts:
        carved = _by_content(parts["train"], (ratios[0], ratios[1], 0))
        parts |= {split: carved[split] for split in ("train", "validation")}
    empty = Split(parts["train"].images[:0], parts["train"].labels[:0])
    return {split: parts.get(split, empty) for split in SPLITS}


def _by_content(whole: Split, ratios: Ratios) -> dict[str, Split]:
    places = np.array([split_of_content(image.tobytes(), ratios) for image in whole.images])
    return {
        split: Split(whole.images[places == split], whole.labels[places == split])
        for split in SPLITS
    }
