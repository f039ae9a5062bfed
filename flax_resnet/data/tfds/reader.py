"""The reader of data sets that TFDS or ``flax-resnet prepare`` has prepared, without TensorFlow.

Images of one size can be decoded in batches (``PreparedSplit.gather``); images of any size can be
read as the bytes of their JPEG or PNG files (``PreparedSplit.contents``).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flax_resnet.data.tfds.folders import (
    FORMAT,
    advice,
    check_array_record,
    find_prepared,
    labels_file,
)
from flax_resnet.errors import UserError

# Errors that say nothing about a file's content; ArrayRecord gives only their texts.
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_NO_ACCESS = (errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT)
# Records read at once: enough to keep the threads of the reader busy, few enough for the memory.
_CHUNK = 1024
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names by number of channels


@dataclass(frozen=True, eq=False)
class PreparedSplit:
    """The images and labels of one split, in the order of the prepared files.

    Several threads may read at once, and a split can be pickled.

    Attributes:
        folder: Folder of the prepared set.
        name: Name of the split, such as "train".
        image, label: Names of the features that are the image and its label.
        num_classes: Number of values of a label.
        multi_label: Whether an image has any number of labels.
        image_shape: ``(height, width, channels)`` of all images, or None if they differ.
        records: array_record's source of the examples, each a serialized ``tf.train.Example``.
    """

    folder: Path
    name: str
    image: str
    label: str
    num_classes: int
    multi_label: bool
    image_shape: tuple[int, int, int] | None
    records: Any

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def labels(self) -> npt.NDArray[Any]:
        """int32 ``[N]``, -1 for no label; or float32 ``[N, num_classes]`` of 0 and 1.

        The first access to the labels of a set that TFDS itself prepared reads all its examples.

        Raises:
            UserError: A file is damaged, or a label is out of range.
        """
        labels = self.stored_labels()
        if labels is None:
            starts = range(0, len(self), _CHUNK)
            chunks = (range(start, min(start + _CHUNK, len(self))) for start in starts)
            labels = np.array([self._label(e) for chunk in chunks for e in self._examples(chunk)])
        elif not self.multi_label:
            self._check_range(labels)
        return labels.astype(np.float32 if self.multi_label else np.int32)

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Shape of one label: ``()``, or ``(num_classes,)`` if ``multi_label``."""
        return (self.num_classes,) if self.multi_label else ()

    def read(self, index: int) -> tuple[bytes, npt.ArrayLike]:
        """Return the bytes of an image's file, and its label: a number, or uint8 ``[num_classes]``.

        Raises:
            IndexError: The index is negative or otherwise outside the split.
            UserError: A file is damaged.
        """
        (example,) = self._examples([int(index)])
        return self._image(example), self._label(example)

    def name_of(self, index: int) -> str:
        """Return a description of where an image is, for messages."""
        return f"{self.name} image {index} of {self.folder}"

    def contents(self, indices: Iterable[int]) -> list[bytes]:
        """Return the bytes of several images' files, several times as fast as one by one.

        Raises:
            IndexError, UserError: As for ``read``.
        """
        examples = self._examples([int(index) for index in indices])
        return [self._image(example) for example in examples]

    def gather(self, indices: npt.ArrayLike) -> dict[str, np.ndarray]:
        """Read and decode a batch of images of one size.

        Args:
            indices: Indices into the split, integers ``[B]``.

        Returns:
            ``"image"`` uint8 ``[B, H, W, C]``, and ``"label"`` with the type of ``labels``, ``[B]``
            or ``[B, num_classes]``.

        Raises:
            IndexError: An index is outside the split.
            UserError: The images of the set differ in size, or a file is damaged.
        """
        if self.image_shape is None:
            raise UserError(
                f"the images in {self.folder} differ in size and cannot be held in one array: "
                "stream them"
            )
        index = np.asarray(indices, np.intp)
        images = np.empty((len(index), *self.image_shape), np.uint8)
        for start in range(0, len(index), _CHUNK):
            for row, content in enumerate(self.contents(index[start : start + _CHUNK]), start):
                images[row] = self._decoded(content, self.image_shape)
        return {"image": images, "label": self.labels[index]}

    def _examples(self, indices: Sequence[int]) -> list[Any]:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorflow_datasets.proto import tf_example_pb2  # type: ignore[import-untyped]

        wrong = [index for index in indices if not 0 <= index < len(self)]
        if wrong:
            raise IndexError(f"image {wrong[0]} of {len(self)} in {self.name}")
        try:
            # A batch uses a pool of threads, which costs more than reading a single record.
            records = (
                [self.records[indices[0]]]
                if len(indices) == 1
                else self.records.__getitems__(indices)
            )
            return [tf_example_pb2.Example.FromString(record) for record in records]
        except (RuntimeError, DecodeError) as error:
            raise UserError(_unreadable(self.folder, error)) from error

    def _image(self, example: Any) -> bytes:
        values = example.features.feature[self.image].bytes_list.value
        if len(values) != 1:
            raise UserError(_damaged(self.folder, "an example has no image"))
        return values[0]

    def _label(self, example: Any) -> npt.ArrayLike:
        values = list(example.features.feature[self.label].int64_list.value)
        if not self.multi_label:
            if len(values) != 1:
                raise UserError(_damaged(self.folder, "an example has no label"))
            self._check_range(values)
            return values[0]
        self._check_range(values, least=0)
        row = np.zeros(self.num_classes, np.uint8)
        row[values] = 1
        return row

    def _check_range(self, labels: npt.ArrayLike, least: int = -1) -> None:
        values = np.asarray(labels)
        invalid = values[(values < least) | (values >= self.num_classes)]
        if len(invalid):
            problem = f"a label is {invalid[0]}, but there are {self.num_classes} classes"
            raise UserError(_damaged(self.folder, problem))

    def stored_labels(self) -> npt.NDArray[Any] | None:
        """Return the copy of the labels that our writer stored, or None."""
        try:
            labels = np.load(labels_file(self.folder, self.name, self.label), allow_pickle=False)
            shape, kind = labels.shape, labels.dtype.kind
        except Exception:  # any exception if the copy is damaged; the records have the labels too
            return None
        wanted = (len(self), self.num_classes) if self.multi_label else (len(self),)
        return labels if shape == wanted and kind in "iu" else None

    def _decoded(self, content: bytes, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as image:
                # Checked before decoding, because a damaged header must not fill the memory.
                if image.size == (shape[1], shape[0]):
                    return np.asarray(image.convert(_MODES[shape[2]])).reshape(shape)
                problem = f"an image of {image.size[1]}×{image.size[0]} pixels"
        except Exception as error:  # on damaged files Pillow raises anything that its parsers raise
            raise UserError(_damaged(self.folder, error)) from error
        raise UserError(_damaged(self.folder, problem))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared data set.

    Attributes:
        name: Name of the set.
        folder: Folder of this version of the set.
        classes: Class names; ``classes[label]`` is the name of a label.
        splits: The splits by TFDS's names, such as "train", "validation" and "test".
    """

    name: str
    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, PreparedSplit]


def open_prepared(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    image: str | None = None,
    label: str | None = None,
) -> Prepared:
    """Open a prepared data set, without the network and without TensorFlow.

    Args:
        name: TFDS's name of the set, ``name[/config][:version]``.
        data_dir: TFDS's folder of data sets; by default that of ``default_folder``.
        image, label: The features to read. By default those that the set declares for supervised
            learning; otherwise the only Image, and the ClassLabel or Sequence of ClassLabel that
            is the only one or has the name ``label`` or ``labels``.

    Raises:
        UserError: The set is not prepared, has a format that only TensorFlow reads, or is damaged,
            or its image or label feature cannot be determined.
    """
    folder = find_prepared(name, data_dir)
    if folder is None:
        raise UserError(advice(name, data_dir))
    check_array_record()
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]
    from array_record.python.array_record_data_source import (  # type: ignore[import-untyped]
        ArrayRecordDataSource,
    )

    try:
        info = tfds.builder_from_directory(folder, file_format=FORMAT).info
        instructions = {split: info.splits[split].file_instructions for split in info.splits}
    except Exception as error:  # any exception: TFDS does not document what damage raises
        raise UserError(_unreadable(folder, error)) from error
    files = [file.filename for files in instructions.values() for file in files]
    if absent := [file for file in files if not os.path.exists(file)]:
        raise UserError(_damaged(folder, f"{os.path.basename(absent[0])} is not there"))
    _allow_open_files(len(files))
    keys = info.supervised_keys or ()
    is_label = {feature: _is_label(info.features[feature]) for feature in info.features}
    is_image = {
        feature: isinstance(info.features[feature], tfds.features.Image)
        for feature in info.features
    }
    image = _choice(folder, "image", image, is_image, [*keys, "image"])
    label = _choice(folder, "label", label, is_label, [*keys, "label", "labels"])
    feature = info.features[label]
    class_label = feature if isinstance(feature, tfds.features.ClassLabel) else feature.feature
    splits = {
        split: PreparedSplit(
            folder,
            split,
            image,
            label,
            class_label.num_classes,
            feature is not class_label,
            _one_shape(info.features[image]),
            # Without extra threads for every file, because there may be a thousand files.
            ArrayRecordDataSource(files, reader_options={"max_parallelism": "0"}),
        )
        for split, files in instructions.items()
    }
    return Prepared(info.name, folder, tuple(class_label.names), splits)


def _is_label(feature: Any) -> bool:
    """Return whether a feature is a ClassLabel or a Sequence of them, with known classes."""
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    if isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return isinstance(feature, tfds.features.ClassLabel) and bool(feature.num_classes)


def _one_shape(feature: Any) -> tuple[int, int, int] | None:
    """Return ``(height, width, channels)`` of a uint8 Image of fixed shape, else None."""
    if None in feature.shape or feature.np_dtype != np.uint8 or feature.shape[2] not in _MODES:
        return None
    height, width, channels = feature.shape
    return height, width, channels


def _choice(
    folder: Path,
    what: str,
    given: str | None,
    is_candidate: Mapping[str, bool],
    preferred: Sequence[Any],
) -> str:
    """Return the name of the feature that is the image or the label.

    Raises:
        UserError: No feature fits, or several do and none is given or preferred.
    """
    candidates = [feature for feature, fits in is_candidate.items() if fits]
    if given is None and len(candidates) == 1:
        return candidates[0]
    for feature in [given] if given is not None else preferred:
        if feature in candidates:
            return feature
    listed = ", ".join(candidates)
    if not candidates:
        raise UserError(
            f"the set in {folder} has no feature that can be the {what}, only "
            f"{', '.join(is_candidate)}: it is not for classification of images"
        )
    if given is not None:
        raise UserError(
            f"the {what} of the set in {folder} cannot be {given}: it must be one of {listed}"
        )
    raise UserError(
        f"the set in {folder} has {len(candidates)} features that can be the {what} ({listed}): "
        f"choose one by {what}="
    )


def _allow_open_files(files: int) -> None:
    """Raise this process's limit on open files where so many more may be too many.

    A reader keeps each file open that it has read: ImageNet has 1,050, and the usual limit is 1,024
    files, on macOS 256.
    """
    if sys.platform == "win32":  # there are no prepared sets
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The rest is for other sets, and for what else a run opens.
    if soft == resource.RLIM_INFINITY or 4 * files <= soft:
        return
    wanted = soft + 2 * files
    with contextlib.suppress(OSError, ValueError):  # the reader names the limit if it is reached
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _unreadable(folder: Path, error: Exception) -> str:
    """Return the message about files that could not be read, which need not be damaged."""
    reasons = {code: os.strerror(code) for code in (*_TOO_MANY, *_NO_ACCESS)}
    found = next((code for code, text in reasons.items() if text in str(error)), None)
    if found in _TOO_MANY:
        return (
            f"the data set in {folder} has more files than may be open at once "
            f"({reasons[found]}): raise the limit, for example by `ulimit -n 8192`, and run the "
            "command again"
        )
    if found is not None:
        return (
            f"the data set in {folder} cannot be read ({reasons[found]}): make its files readable, "
            "or check the disk or network that they are on, and run the command again"
        )
    return _damaged(folder, error)


def _damaged(folder: Path, problem: object) -> str:
    first_line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    return f"the data set in {folder} is damaged ({first_line}): delete it and prepare it again"
