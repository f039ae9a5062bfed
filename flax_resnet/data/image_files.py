"""A source of batches that decodes image files as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt

from flax_resnet.data.framing import Framing
from flax_resnet.data.images import (
    MAX_PIXELS,
    BadImage,
    Interpolation,
    Pixels,
    random_resized_crop,
)
from flax_resnet.data.records import Records
from flax_resnet.errors import UserError

OnBadImage = Literal["error", "skip"]


class ImageFiles:
    """Images and labels of one split, from files decoded by threads.

    Attributes:
        labels: int32 [N].
        bad: path -> reason of each file found so far that could not be decoded; with "skip".
        streams: True: images are decoded when asked for, cropped as `draws` say.
        framing: how images become pixels where there are no draws.
    """

    streams = True

    def __init__(
        self,
        records: Records,
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
        self.labels = records.labels
        self.bad: dict[str, str] = {}
        self._paths = records.paths
        self.framing = Framing.evaluating(size, resize, interpolation)
        self._size = size
        if self.framing.resize is None or not 1 <= size <= self.framing.resize:
            raise UserError(
                f"images of {size} pixels cannot be cropped from ones resized to "
                f"{self.framing.resize}: resize to at least as many"
            )
        self._scale = scale
        self._ratio = ratio
        self._interpolation: Interpolation = interpolation
        self._skip = on_bad_image == "skip"
        self._max_pixels = max_pixels
        # Started when first used, and ended with the last reference to it.
        self._pool = ThreadPoolExecutor(workers or _cores(), "decode")

    @classmethod
    def framed(cls, paths: Sequence[str], framing: Framing) -> ImageFiles:
        """Files without labels (all 0), in any framing; those that cannot be decoded are masked
        out and noted in `bad`. There are no random crops of them."""
        records = Records(tuple(paths), np.zeros(len(paths), np.int32))
        size, resize = framing.height, framing.resize
        files = cls(records, size=size, resize=resize or size, on_bad_image="skip")
        files.framing = framing
        return files

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image of a batch."""
        return self.framing.height, self.framing.width, self.framing.channels

    def gather(
        self, indices: npt.ArrayLike, draws: npt.NDArray[np.float64] | None = None
    ) -> dict[str, np.ndarray]:
        """Decode a batch.

        Args:
            indices: integers [B], each a position in the split.
            draws: [B, k] in [0, 1): each image is a random crop, decided by its row alone (see
                `images.crop_box` for k). None: resized, and the middle cropped.

        Returns:
            "image": uint8 [B, *image_shape], "label": int32 [B]. With "skip" and no draws also
            "mask": bool [B], False for images that cannot be decoded, which are black.

        Raises:
            BadImage: of the first such file of the batch, unless they are skipped.
            UserError: no file can be decoded.
            IndexError: an index outside the split.
        """
        index = np.asarray(indices) if np.size(indices) else np.zeros(0, np.intp)
        labels = self.labels[index]  # raises before any work is done
        images = np.zeros((len(index), *self.image_shape), np.uint8)
        chosen = np.array(index % max(len(self), 1))

        def fill(row: int) -> bool:
            decode = self._center if draws is None else self._crop_by(draws[row])
            candidates = [chosen[row]] if draws is None else self._from(chosen[row])
            for candidate in candidates:
                image = self._decoded(self._paths[candidate], decode)
                if image is not None:
                    images[row], chosen[row] = image, candidate
                    return True
            return False

        done = np.array(list(self._pool.map(fill, range(len(index)))), bool)
        if draws is None:
            masked = {"mask": done} if self._skip else {}
            return {"image": images, "label": labels, **masked}
        if not done.all():
            path, reason = next(iter(self.bad.items()))
            raise UserError(
                f"none of the {len(self)} images can be decoded ({path}, for one, {reason}); "
                "replace them"
            )
        return {"image": images, "label": self.labels[chosen]}

    def close(self) -> None:
        """End the threads; nothing can be gathered any more."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _from(self, first: int) -> Iterator[int]:
        """Yield every position of the split once, from this one on and round."""
        return ((first + step) % len(self) for step in range(len(self)))

    def _decoded(self, path: str, decode: Callable[[str], Pixels]) -> Pixels | None:
        """Return the image, or None where it is bad and skipped."""
        if path in self.bad:
            return None
        try:
            return decode(path)
        except BadImage as error:
            if not self._skip:
                raise
            self.bad[path] = error.reason
            return None

    def _center(self, path: str) -> Pixels:
        return self.framing.read(path, max_pixels=self._max_pixels)

    def _crop_by(self, draws: npt.NDArray[np.float64]) -> Callable[[str], Pixels]:
        return lambda path: random_resized_crop(
            path,
            draws,
            self._size,
            scale=self._scale,
            ratio=self._ratio,
            interpolation=self._interpolation,
            max_pixels=self._max_pixels,
        )


def _cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1
