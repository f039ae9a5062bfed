"""Batches of image files, decoded by threads when a batch is gathered.

The files lie in a folder (``Records``) or inside a prepared TFDS set (``tfds.PreparedSplit``).
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from flax_resnet.data.images.decoding import (
    MAX_PIXELS,
    ImageDecodeError,
    ImageSource,
    name_and_bytes,
)
from flax_resnet.data.images.digests import content_digest, digest_files
from flax_resnet.data.images.pixels import Pixels, random_resized_crop
from flax_resnet.data.images.records import Records
from flax_resnet.data.images.transform import fit_image, load_image
from flax_resnet.errors import UserError
from flax_resnet.processor import available_cores
from flax_resnet.transform import EvalTransform, Interpolation

OnBadImage = Literal["error", "skip"]


class LabeledFiles(Protocol):
    """Protocol of encoded image files with labels, from which ``ImageFiles`` decodes batches.

    Several threads may read at once.
    """

    @property
    def labels(self) -> npt.NDArray[Any]:
        """int32 ``[N]``, or float32 ``[N, classes]`` if an image has any number of classes."""
        ...

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one label: ``()`` or ``(classes,)``."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[ImageSource | Pixels | Image.Image, npt.ArrayLike]:
        """Return the bytes or the path of a file, or an image in memory; and its label."""
        ...

    def name_of(self, index: int) -> str:
        """Return the path of a file, or a description of where it is, for messages."""
        ...


class ImageFiles:
    """The decoded images of a ``LabeledFiles``, in batches; implements the ``Source`` protocol.

    Threads decode the files when a batch is gathered.

    Attributes:
        bad: Name and reason of each file found so far that cannot be decoded, if such files are
            skipped.
        files: The image files and their labels.
        streams: True, because images are decoded and cropped when a batch is gathered.
        transform: How images become pixels where there are no random crops.
    """

    streams = True

    def __init__(
        self,
        files: LabeledFiles,
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
        """Store the settings; no file is opened yet.

        Args:
            files: The image files and their labels.
            size: Height and width of the decoded images, in pixels.
            resize: Length of the shorter side before the center crop, for images without a random
                crop; by default 256/224 of ``size``, rounded.
            scale, ratio: Limits of random crops, see ``crop_box``.
            interpolation: Filter of the resizing.
            workers: Number of threads that decode; by default the number of cores.
            on_bad_image: "error" raises ImageDecodeError for a file that cannot be decoded. "skip"
                records it in ``bad``; training (``replace``) then takes the next file of the split
                that can be decoded (after the last file the first one), so that batches stay full
                and reproducible, and evaluation masks the file out.
            max_pixels: Largest number of pixels that a file may have, see ``read_image``.

        Raises:
            UserError: ``resize`` is less than ``size``, or ``size`` is less than 1.
        """
        self.bad: dict[str, str] = {}
        self.files = files
        self.transform = EvalTransform.center_crop(size, resize, interpolation)
        if self.transform.resize is None or not 1 <= size <= self.transform.resize:
            raise UserError(
                f"images of {size} pixels cannot be cropped from ones resized to "
                f"{self.transform.resize}: resize to at least as many"
            )
        self._scale = scale
        self._ratio = ratio
        self._skip = on_bad_image == "skip"
        self._max_pixels = max_pixels
        # The threads start at the first use and end with the last reference to the pool.
        self._workers = workers or available_cores()
        self._pool = ThreadPoolExecutor(self._workers, "decode")
        self._is_closed = False

    @classmethod
    def from_transform(cls, files: LabeledFiles, transform: EvalTransform) -> ImageFiles:
        """Return files that any transform evaluates; there are no random crops of them.

        Files that cannot be decoded are masked out and recorded in ``bad``.
        """
        size, resize = transform.height, transform.resize
        images = cls(files, size=size, resize=resize or size, on_bad_image="skip")
        images.transform = transform
        return images

    def __len__(self) -> int:
        return len(self.files)

    @property
    def labels(self) -> npt.NDArray[Any]:
        """int32 ``[N]``, or float32 ``[N, classes]`` if an image has any number of classes."""
        return self.files.labels

    def content_digests(self) -> list[str]:
        """Return the ``content_digest`` of each file; that of its name if it cannot be read."""
        count = range(len(self))
        if isinstance(self.files, Records):
            digests = [
                None if digest is None else digest.content
                for digest in digest_files(self.files.paths)
            ]
        else:
            digests = list(self._pool.map(self._content_digest, count))
        return [digests[n] or content_digest(os.fsencode(self.files.name_of(n))) for n in count]

    def _content_digest(self, index: int) -> str | None:
        content, _ = self.files.read(index)
        if isinstance(content, np.ndarray | Image.Image):
            return content_digest(content.tobytes())
        try:
            return content_digest(name_and_bytes(content)[1])
        except ImageDecodeError:
            return None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(height, width, channels)`` of every image of a batch."""
        return self.transform.height, self.transform.width, self.transform.channels

    def gather(
        self,
        indices: npt.ArrayLike,
        crop_uniforms: npt.NDArray[np.float64] | None = None,
        size: int | None = None,
        replace: bool = False,
    ) -> dict[str, np.ndarray]:
        """Decode a batch.

        Args:
            indices: Indices into the split, integers ``[B]``.
            crop_uniforms: Random numbers in [0, 1), ``[B, k]``: each image is a random crop that
                its row alone determines (see ``crop_box`` for k). None: each image is resized and
                its center is cropped.
            size: Height and width of the result, if they differ from ``image_shape``; the shorter
                side before the center crop changes in proportion.
            replace: Whether the next file that can be decoded replaces one that cannot and is
                skipped; of random crops it always does.

        Returns:
            ``"image"`` uint8 ``[B, H, W, C]`` and ``"label"`` int32 ``[B]`` or float32
            ``[B, classes]``. With "skip" and no random crops also ``"mask"`` bool ``[B]``, False
            for images that cannot be decoded and are not replaced; these are black.

        Raises:
            ImageDecodeError: A file cannot be decoded, and such files are not skipped; it is the
                first one of the batch.
            UserError: No file of the split can be decoded.
            IndexError: An index is outside the split.
        """
        index = np.asarray(indices) if np.size(indices) else np.zeros(0, np.intp)
        count = len(self)
        if len(index) and not -count <= index.min() <= index.max() < count:
            raise IndexError(f"images {index.min()} to {index.max()} of {count}")
        transform = self.transform if size is None else self.transform.scaled(size)
        shape = (transform.height, transform.width, transform.channels)
        images = np.empty((len(index), *shape), np.uint8)
        label_shape = self.files.label_shape
        replace = replace or crop_uniforms is not None
        labels = np.zeros((len(index), *label_shape), np.float32 if label_shape else np.int32)

        def fill(row: int) -> bool:
            uniforms = None if crop_uniforms is None else crop_uniforms[row]
            for step in range(count if replace else 1):
                file = (int(index[row]) + step) % count
                content, labels[row] = self.files.read(file)
                pixels = self._decoded(self.files.name_of(file), content, uniforms, transform)
                if pixels is not None:
                    images[row] = pixels
                    return True
            images[row] = 0
            return False

        done = np.zeros(len(index), bool)
        errors: dict[int, Exception] = {}
        rows = itertools.count()

        def work() -> None:
            # Each thread takes the next row: one task per row would cost as much as a small image.
            while not errors and (row := next(rows)) < len(index):
                try:
                    done[row] = fill(row)
                except Exception as error:
                    errors[row] = error

        if len(index) == 1 and not self._is_closed:
            work()  # a single image does not wait for another thread
        else:
            tasks = [self._pool.submit(work) for _ in range(min(self._workers, len(index)))]
            for task in tasks:
                task.result()
        if errors:  # rows are taken in order, so the first error of the batch is among these
            raise errors[min(errors)]
        if replace and not done.all():
            name, reason = next(iter(self.bad.items()))
            raise UserError(
                f"none of the {len(self)} images can be decoded (for example, {name} {reason}); "
                "replace them"
            )
        masked = {"mask": done} if self._skip and crop_uniforms is None else {}
        return {"image": images, "label": labels, **masked}

    def close(self) -> None:
        """End the threads; no batch can be gathered afterwards."""
        self._is_closed = True
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ImageFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _decoded(
        self,
        name: str,
        content: ImageSource | Pixels | Image.Image,
        crop_uniforms: npt.NDArray[np.float64] | None,
        transform: EvalTransform,
    ) -> Pixels | None:
        """Decode one image; return None if it cannot be decoded and is skipped."""
        if name in self.bad:
            return None
        try:
            if isinstance(content, np.ndarray | Image.Image):
                return fit_image(content, transform)
            if crop_uniforms is None:
                return load_image(content, transform, max_pixels=self._max_pixels)
            return random_resized_crop(
                content,
                crop_uniforms,
                transform.height,
                scale=self._scale,
                ratio=self._ratio,
                interpolation=transform.interpolation,
                max_pixels=self._max_pixels,
            )
        except ImageDecodeError as error:
            if not self._skip:
                raise ImageDecodeError(name, error.reason) from error
            self.bad[name] = error.reason
            return None
