"""A data set: three splits of images and labels, in memory or decoded from files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flax_resnet.data.pipeline import Source
from flax_resnet.transform import EvalTransform


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split in memory; implements the ``Source`` protocol.

    Each image has a single label; multi-label sets are read from files.

    Attributes:
        images: uint8 ``[N, H, W, C]``.
        labels: int32 ``[N]``.

    Raises:
        ValueError: The arrays have other types, or their shapes do not fit together.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        for what, array, dtype, rank in (
            ("images", self.images, np.uint8, 4),
            ("labels", self.labels, np.int32, 1),
        ):
            if array.dtype != dtype or array.ndim != rank:
                raise ValueError(f"{what} of type {array.dtype} and shape {list(array.shape)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def streams(self) -> bool:
        """False, because the images are in memory."""
        return False

    @property
    def bad(self) -> dict[str, str]:
        """Always empty: loading an in-memory data set fails on an unreadable image."""
        return {}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)`` of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def gather(
        self,
        indices: npt.ArrayLike,
        crop_uniforms: npt.NDArray[np.float64] | None = None,
        size: int | None = None,
        replace: bool = False,
    ) -> dict[str, np.ndarray]:
        """Copy out a batch.

        Args:
            indices: Indices into the split, integers ``[B]``.
            crop_uniforms, size, replace: Not used; streaming sources crop and read by them.

        Returns:
            ``"image"`` uint8 ``[B, H, W, C]`` and ``"label"`` int32 ``[B]``.

        Raises:
            IndexError: An index is outside the split.
        """
        # NumPy would make float64 of the empty list.
        index = np.asarray(indices) if np.size(indices) else np.zeros(0, np.intp)
        return {"image": self.images[index], "label": self.labels[index]}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its three splits.

    Attributes:
        name: Name of the set.
        classes: Class names; ``classes[label]`` is the name of a label.
        train, validation, test: The splits.
        notes: Sentences for the user about what was found.
        multi_label: An image may have any number of classes; labels are float32 ``[N, classes]``.
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    validation: Source
    test: Source
    notes: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)`` of every image of a batch."""
        return self.train.image_shape

    @property
    def transform(self) -> EvalTransform:
        """The preprocessing that evaluation applies to an image file."""
        stored = getattr(self.test, "transform", None)
        return stored or EvalTransform.stored_like(self.image_shape)

    @property
    def bad(self) -> dict[str, str]:
        """Path and reason of each file found so far that cannot be decoded and is left out."""
        splits = (self.train, self.validation, self.test)
        return {path: reason for split in splits for path, reason in split.bad.items()}
