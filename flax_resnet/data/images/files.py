"""A source of batches that decodes image files as they are asked for.

The files lie in a folder (`records.Records`) or within a prepared set (`prepared.PreparedSplit`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from flax_resnet.data.framing import Framing
from flax_resnet.data.images.decoding import read_bytes
from flax_resnet.data.images.reading import (
    MAX_PIXELS,
    BadImage,
    Content,
    Interpolation,
    Pixels,
    random_resized_crop,
)
from flax_resnet.data.images.records import Records
from flax_resnet.errors import UserError

OnBadImage = Literal["error", "skip"]


class Photos(Protocol):
    """Image files of a split and their labels, which several threads may read at a time."""

    @property
    def labels(self) -> npt.NDArray[Any]:
        """int32 [N], or float32 [N, classes] where an image has any number of them."""
        ...

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one label: (), or (classes,)."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Content, npt.ArrayLike]:
        """Return the file, or its path, and its label."""
        ...

    def place(self, index: int) -> str:
        """Return where the file is, for messages."""
        ...


class ImageFiles:
    """Images and labels of one split, from files decoded by threads.

    Attributes:
        bad: place -> reason of each file found so far that could not be decoded; with "skip".
        streams: True: images are decoded when asked for, cropped as `draws` say.
        framing: how images become pixels where there are no draws.
    """

    streams = True

    def __init__(
        self,
        photos: Photos,
        *,
        size: int,
        resize: int | None = None,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        workers: int | None = None,
        on_bad_image: OnBadImage = "error",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Prepare to decode; no file is opened yet.

        Args:
            size: height and width of the images that come out, in pixels.
            resize: the shorter side before the middle is cropped, where no draws are given; by
                default `size` · 256/224, rounded.
            scale, ratio: of random crops, see `images.crop_box`.
            workers: threads that decode; by default as many as there are cores.
            on_bad_image: "error" raises BadImage for a file that cannot be decoded. "skip"
                notes it in `bad`; in training the next file of the split that can be decoded
                takes its place (after the last comes the first), so that batches stay full and
                are the same each time; in evaluation it is masked out.
            max_pixels: see `images.read_image`.

        Raises:
            UserError: `resize` is less than `size`, or `size` less than 1.
        """
        self.bad: dict[str, str] = {}
        self._photos = photos
        self.framing = Framing.evaluating(size, resize, interpolation)
        if self.framing.resize is None or not 1 <= size <= self.framing.resize:
            raise UserError(
                f"images of {size} pixels cannot be cropped from ones resized to "
                f"{self.framing.resize}: resize to at least as many"
            )
        self._scale = scale
        self._ratio = ratio
        self._skip = on_bad_image == "skip"
        self._max_pixels = max_pixels
        # Started when first used, and ended with the last reference to it.
        self._workers = workers or _cores()
        self._pool = ThreadPoolExecutor(self._workers, "decode")

    @classmethod
    def framed(cls, records: Records | Sequence[str], framing: Framing) -> ImageFiles:
        """Files in any framing, of paths alone labelled 0; those that cannot be decoded are masked
        out and noted in `bad`. There are no random crops of them."""
        if not isinstance(records, Records):
            records = Records(tuple(records), np.zeros(len(records), np.int32))
        size, resize = framing.height, framing.resize
        files = cls(records, size=size, resize=resize or size, on_bad_image="skip")
        files.framing = framing
        return files

    def __len__(self) -> int:
        return len(self._photos)

    @property
    def labels(self) -> npt.NDArray[Any]:
        """int32 [N], or float32 [N, classes] where an image has any number of them."""
        return self._photos.labels

    @property
    def workers(self) -> int:
        """Threads that decode."""
        return self._workers

    def content(self, index: int) -> bytes:
        """Return the file as it is; of one that cannot be read, where it should be."""
        content, _ = self._photos.read(index)
        try:
            return content if isinstance(content, bytes) else read_bytes(os.fspath(content))
        except BadImage:
            return self._photos.place(index).encode()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image of a batch."""
        return self.framing.height, self.framing.width, self.framing.channels

    def gather(
        self,
        indices: npt.ArrayLike,
        draws: npt.NDArray[np.float64] | None = None,
        size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Decode a batch.

        Args:
            indices: integers [B], each a position in the split.
            draws: [B, k] in [0, 1): each image is a random crop, decided by its row alone (see
                `images.crop_box` for k). None: resized, and the middle cropped.
            size: height and width that come out, where they are not those of `image_shape`; the
                shorter side before the middle is cropped changes in proportion.

        Returns:
            "image": uint8 [B, H, W, C], "label": int32 [B] or float32 [B, classes]. With "skip"
            and no draws also "mask": bool [B], False for images that cannot be decoded, which are
            black.

        Raises:
            BadImage: of the first such file of the batch, unless they are skipped.
            UserError: no file can be decoded.
            IndexError: an index outside the split.
        """
        index = np.asarray(indices) if np.size(indices) else np.zeros(0, np.intp)
        count = len(self)
        if len(index) and not -count <= index.min() <= index.max() < count:
            raise IndexError(f"images {index.min()} to {index.max()} of {count}")
        framing = self.framing if size is None else self.framing.scaled(size)
        shape = (framing.height, framing.width, framing.channels)
        images = np.empty((len(index), *shape), np.uint8)
        label_shape = self._photos.label_shape
        labels = np.zeros((len(index), *label_shape), np.float32 if label_shape else np.int32)

        def fill(row: int) -> bool:
            draw = None if draws is None else draws[row]
            # In training the files that follow stand in for one that cannot be decoded.
            for step in range(1 if draws is None else count):
                place = (int(index[row]) + step) % count
                content, labels[row] = self._photos.read(place)
                pixels = self._decoded(self._photos.place(place), content, draw, framing)
                if pixels is not None:
                    images[row] = pixels
                    return True
            images[row] = 0
            return False

        done = np.zeros(len(index), bool)
        errors: dict[int, Exception] = {}
        rows = itertools.count()

        def work() -> None:
            # Each thread takes the next row: a task for each would cost as much as a small image.
            while not errors and (row := next(rows)) < len(index):
                try:
                    done[row] = fill(row)
                except Exception as error:
                    errors[row] = error

        tasks = [self._pool.submit(work) for _ in range(min(self._workers, len(index)))]
        for task in tasks:
            task.result()
        if errors:  # rows are taken in order, so that the first of them all is among them
            raise errors[min(errors)]
        if draws is None:
            masked = {"mask": done} if self._skip else {}
            return {"image": images, "label": labels, **masked}
        if not done.all():
            place, reason = next(iter(self.bad.items()))
            raise UserError(
                f"none of the {len(self)} images can be decoded ({place}, for one, {reason}); "
                "replace them"
            )
        return {"image": images, "label": labels}

    def close(self) -> None:
        """End the threads; nothing can be gathered any more."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _decoded(
        self,
        place: str,
        content: Content,
        draws: npt.NDArray[np.float64] | None,
        framing: Framing,
    ) -> Pixels | None:
        """Return the image, or None where it is bad and skipped."""
        if place in self.bad:
            return None
        try:
            if draws is None:
                return framing.read(content, max_pixels=self._max_pixels)
            return random_resized_crop(
                content,
                draws,
                framing.height,
                scale=self._scale,
                ratio=self._ratio,
                interpolation=framing.interpolation,
                max_pixels=self._max_pixels,
            )
        except BadImage as error:
            if not self._skip:
                raise BadImage(place, error.reason) from error
            self.bad[place] = error.reason
            return None


def _cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1
