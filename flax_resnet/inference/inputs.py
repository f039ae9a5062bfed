"""Images as callers give them: paths, encoded files, arrays and PIL images, also mixed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from ..data import Source, Split
from ..data.images import ImageFiles
from ..errors import UserError
from ..paths import expand_text
from ..transform import EvalTransform

Images = Any
"""What ``predict`` takes, see there."""

# Floats up to this are either 0 to 1 with an overshoot, as of bicubic resizing, or nearly black.
_DARKEST = 16.0

_LISTED = "Image {} of the list"


def open_images(images: Images, transform: EvalTransform) -> tuple[Source, tuple[str, ...]]:
    """Return images as a source, and their names: paths as given, numbers from 0 of the others.

    Files, PIL images and encoded images are decoded when a batch is gathered; those that cannot be
    decoded are named in the source's ``bad``.

    Raises:
        UserError: A value that is no image, or an array that could be read in two ways.
    """
    if isinstance(images, Split):
        return images, tuple(map(str, range(len(images))))
    items = _items(images, transform)
    stored = transform.height, transform.width, transform.channels
    if isinstance(items, np.ndarray) and items.shape[1:] == stored:
        return Split(items, np.zeros(len(items), np.int32)), tuple(map(str, range(len(items))))
    paths = {item for item in items if isinstance(item, str)}
    names = []
    for number, item in enumerate(items):
        name = item if isinstance(item, str) else str(number)
        while name in paths and not isinstance(item, str):
            name = f"image {name}"
        names.append(name)
    given = _GivenImages(list(items), tuple(names))
    return ImageFiles.from_transform(given, transform), given.names


@dataclass(frozen=True, eq=False)
class _GivenImages:
    """Images without labels; implements ``LabeledFiles``."""

    items: Sequence[str | bytes | np.ndarray | Image.Image]
    names: tuple[str, ...]
    label_shape = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(len(self.items), np.int32)

    def read(self, index: int) -> tuple[Any, int]:
        item = self.items[index]
        return expand_text(item) if isinstance(item, str) else item, 0

    def name_of(self, index: int) -> str:
        return self.names[index]


def _items(images: Images, transform: EvalTransform) -> list[Any] | np.ndarray:
    """Return a list of paths, bytes, PIL images and arrays uint8 ``[H, W, C]``; or one array
    uint8 ``[N, H, W, C]``."""
    channels = {1, 3, 4, transform.channels}
    if (item := _one_item(images, "The image")) is not None:
        return [item]
    if _is_array(images):
        array = np.asarray(images)
        if array.dtype.kind not in "OUS" and array.size:
            (batch,) = _to_uint8({"The array": array})
            return _as_batch(batch, "The array", channels)
        images = list(array) if array.ndim == 1 or not array.size else [array]
    try:
        if isinstance(images, Mapping):
            raise TypeError
        listed = list(images)
    except TypeError:
        raise UserError(
            f"A value of type {type(images).__name__} is not an image: give paths, bytes, binary "
            "files, arrays or PIL images."
        ) from None
    items: list[Any] = [None] * len(listed)
    arrays: dict[int, np.ndarray] = {}
    for number, value in enumerate(listed):
        name = _LISTED.format(number)
        item = _one_item(value, name)
        if item is None and not _is_array(value):
            raise UserError(
                f"{name} is of type {type(value).__name__}: give a path, bytes, a binary file, an "
                "array or a PIL image."
            )
        items[number] = item
        if item is None:
            arrays[number] = np.asarray(value)
    converted = _to_uint8({_LISTED.format(number): array for number, array in arrays.items()})
    for number, array in zip(arrays, converted, strict=True):
        name = _LISTED.format(number)
        batch = _as_batch(array, name, channels)
        if len(batch) != 1:
            raise UserError(
                f"{name} is an array {list(array.shape)} of {len(batch)} images: give each of them "
                "as an item of the list, or one array of all."
            )
        items[number] = batch[0]
    return items


def _one_item(value: Any, name: str) -> str | bytes | Image.Image | None:
    """Return a path as a string, bytes, or a PIL image; None for any other value."""
    if isinstance(value, str | os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Image.Image):
        return value
    if not callable(getattr(value, "read", None)):
        return None
    try:
        if getattr(value, "seekable", lambda: False)():
            value.seek(0)  # it has often just been written
        content = value.read()
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is a file that cannot be read ({error}).") from error
    if not isinstance(content, bytes | bytearray):
        raise UserError(
            f"{name} is a file whose read() returns {type(content).__name__} and not bytes: open "
            'it with "rb".'
        )
    return bytes(content)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _to_uint8(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return arrays of one range as uint8.

    Raises:
        UserError: Other types, values out of range, or values of which the range is not clear.
    """
    largest: dict[str, float] = {}
    for name, array in arrays.items():
        if array.dtype == np.uint8 or not array.size:
            continue
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(
                f"{name} is an array of {array.dtype}: give uint8 (0 to 255) or floats (0 to 1)."
            )
        low, high = float(array.min()), float(array.max())
        if not np.isfinite([low, high]).all():
            raise UserError(f"{name} has values that are NaN or infinite.")
        if low < 0 or high > 255:
            raise UserError(
                f"{name} has values from {low:g} to {high:g}: give 0 to 1 or 0 to 255, before any "
                "normalisation, which the model's transform does."
            )
        if 1 < high < _DARKEST:
            raise UserError(
                f"{name} has values up to {high:g}: they could be 0 to 1 with an overshoot, or 0 "
                "to 255 and nearly black; clip them to 1, or give uint8."
            )
        largest[name] = high
    unit = [name for name, high in largest.items() if 0 < high <= 1]
    byte = [name for name, high in largest.items() if high > 1]
    if unit and byte:
        raise UserError(
            f"{unit[0]} has values up to {largest[unit[0]]:g}, and {byte[0]} up to "
            f"{largest[byte[0]]:g}: the first could be 0 to 1, or 0 to 255 and nearly black; give "
            "all in one range, or uint8."
        )
    scale = 1.0 if byte else 255.0
    return [
        array
        if array.dtype == np.uint8
        else np.rint(np.asarray(array, np.float32) * scale).astype(np.uint8)
        for array in arrays.values()
    ]


def _as_batch(array: np.ndarray, name: str, channels: set[int]) -> np.ndarray:
    """Return an array of one or several images as ``[N, H, W, C]``.

    Raises:
        UserError: The shape is not that of images, or could be so in two ways.
    """
    shape = array.shape
    given = f"{name} has the shape {list(shape)}"
    if len(shape) not in (2, 3, 4) or 0 in shape[-2:] or (len(shape) == 4 and 0 in shape):
        encoded = ", or the bytes of a file as bytes" if len(shape) == 1 else ""
        raise UserError(f"{given}: give [H, W], [H, W, C] or [N, H, W, C]{encoded}.")
    if len(shape) == 2:
        return array[None, :, :, None]
    first, middle, last = (length in channels for length in shape[-3:])
    if len(shape) == 4:
        if last and not first:
            return array
        if last:
            raise UserError(
                f"{given}: it could be [N, H, W, C] or, with the channels first, [N, C, H, W]; "
                "give PIL images or files."
            )
        if first:
            raise UserError(
                f"{given}, with the channels first: give [N, H, W, C], as of "
                "np.moveaxis(images, 1, -1)."
            )
        raise UserError(f"{given}: {shape[-1]} is not a number of channels; give 1, 3 or 4.")
    if last and not first and not middle:
        return array[None]
    if last:
        raise UserError(
            f"{given}: it could be one image [H, W, C], or have the channels first, or be "
            f"{shape[0]} grey images [N, H, W]; give [N, H, W, C]."
        )
    if first and shape[0] != 1:  # of [1, H, W] both readings are the same image
        raise UserError(
            f"{given}: it could be one image with the channels first, [C, H, W], or {shape[0]} "
            "grey images, [N, H, W]; give [H, W, C], as of np.moveaxis(image, 0, -1), or "
            "[N, H, W, 1]."
        )
    if shape[-1] == 2:
        raise UserError(
            f"{given}: it could be one image of grey and alpha, or {shape[0]} grey images of width "
            "2; give [H, W, 1], or [N, H, W, 1]."
        )
    return array[..., None]
