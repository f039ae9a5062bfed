"""Data sets that TFDS, or `flax-resnet prepare`, has prepared, read without TensorFlow.

Images of one size can be read decoded (`PreparedSplit.gather`); all can be read as the bytes of
their JPEG or PNG files (`PreparedSplit.content`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flax_resnet.data.tfds.folder import FORMAT, advice, find_prepared, labels_file
from flax_resnet.errors import UserError

# Records read in one go: enough to keep the reader's threads busy, few enough for the memory.
_CHUNK = 1024
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names by number of channels


@dataclass(frozen=True, eq=False)
class PreparedSplit:
    """The images of a split and their labels, in the order of the prepared files.

    Several threads may read at a time, and it can be pickled.

    Attributes:
        folder: of the prepared set.
        name: as in "train".
        image, label: names of the features that are the image and its label.
        num_classes: number of values of a label.
        multi_label: whether an image has any number of labels.
        image_shape: (height, width, channels) of all images, or None where they differ.
        records: array_record's source of the examples, each a serialized `tf.train.Example`.
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
        """int32 [N], -1 for none; where `multi_label`, float32 [N, num_classes] of 0 and 1.

        A set that TFDS itself prepared is read through for them, images and all, the first time.

        Raises:
            UserError: a file is damaged, or a label is out of range.
        """
        labels = self._noted_labels()
        if labels is None:
            starts = range(0, len(self), _CHUNK)
            chunks = (range(start, min(start + _CHUNK, len(self))) for start in starts)
            labels = np.array([self._label(e) for chunk in chunks for e in self._examples(chunk)])
        elif not self.multi_label:
            self._check_range(labels)
        return labels.astype(np.float32 if self.multi_label else np.int32)

    def content(self, index: int) -> bytes:
        """Return an image as the bytes of its JPEG or PNG file.

        Raises:
            IndexError: an index outside the split, as negative ones are.
            UserError: a file is damaged.
        """
        return self.contents([index])[0]

    @property
    def label_shape(self) -> tuple[int, ...]:
        """Of one label: (), or (num_classes,) where `multi_label`."""
        return (self.num_classes,) if self.multi_label else ()

    def read(self, index: int) -> tuple[bytes, npt.ArrayLike]:
        """Return an image as `content` does, and its label: a number, or uint8 [num_classes].

        Raises:
            IndexError, UserError: as `content`.
        """
        (example,) = self._examples([int(index)])
        return self._image(example), self._label(example)

    def place(self, index: int) -> str:
        """Return where an image is, for messages."""
        return f"{self.name} image {index} of {self.folder}"

    def contents(self, indices: Iterable[int]) -> list[bytes]:
        """Return images as `content` does; a batch at a time is several times as fast.

        Raises:
            IndexError, UserError: as `content`.
        """
        examples = self._examples([int(index) for index in indices])
        return [self._image(example) for example in examples]

    def gather(self, indices: npt.ArrayLike) -> dict[str, np.ndarray]:
        """Read and decode a batch of images of one size.

        Args:
            indices: integers [B], each a position in the split.

        Returns:
            "image": uint8 [B, H, W, C], "label": as `labels`, [B] or [B, num_classes].

        Raises:
            IndexError: an index outside the split.
            UserError: the set's images differ in size, or a file is damaged.
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
            # A batch goes through a pool of threads, which costs more than one record.
            records = (
                [self.records[indices[0]]]
                if len(indices) == 1
                else self.records.__getitems__(indices)
            )
            return [tf_example_pb2.Example.FromString(record) for record in records]
        except (RuntimeError, DecodeError) as error:
            raise UserError(_damaged(self.folder, error)) from error

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
        strange = values[(values < least) | (values >= self.num_classes)]
        if len(strange):
            problem = f"a label of {strange[0]}, where there are {self.num_classes} classes"
            raise UserError(_damaged(self.folder, problem))

    def _noted_labels(self) -> npt.NDArray[Any] | None:
        try:
            labels = np.load(labels_file(self.folder, self.name, self.label), allow_pickle=False)
            shape, kind = labels.shape, labels.dtype.kind
        except Exception:  # of any kind where the note is damaged; the records have the labels too
            return None
        wanted = (len(self), self.num_classes) if self.multi_label else (len(self),)
        return labels if shape == wanted and kind in "iu" else None

    def _decoded(self, content: bytes, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(content)) as image:
                # Before it is decoded: a damaged header must not fill the memory.
                if image.size == (shape[1], shape[0]):
                    return np.asarray(image.convert(_MODES[shape[2]])).reshape(shape)
                problem = f"an image of {image.size[1]}×{image.size[0]} pixels"
        except Exception as error:  # on damaged files Pillow lets through what its parsers raise
            raise UserError(_damaged(self.folder, error)) from error
        raise UserError(_damaged(self.folder, problem))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared data set; `classes[label]` is the name of a label.

    Attributes:
        folder: where it is, with the version.
        splits: by name; as in TFDS, "train", "validation" and "test" where there are such.
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
        name: as TFDS takes it: `name[/config][:version]`.
        data_dir: TFDS's folder of data sets; by default `~/tensorflow_datasets`.
        image, label: the features to read. By default those that the set names for supervised
            learning, or else the one Image, and the ClassLabel or Sequence of ClassLabel that is
            the only one or has the name `label` or `labels`.

    Raises:
        UserError: not prepared, or in a format that only TensorFlow reads; damaged; or the image
            or label cannot be told.
    """
    folder = find_prepared(name, data_dir)
    if folder is None:
        raise UserError(advice(name, data_dir))
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]
    from array_record.python.array_record_data_source import (  # type: ignore[import-untyped]
        ArrayRecordDataSource,
    )

    try:
        info = tfds.builder_from_directory(folder, file_format=FORMAT).info
        instructions = {split: info.splits[split].file_instructions for split in info.splits}
    except Exception as error:  # of any kind: TFDS does not say what damage raises
        raise UserError(_damaged(folder, error)) from error
    files = [file.filename for files in instructions.values() for file in files]
    if absent := [file for file in files if not os.path.exists(file)]:
        raise UserError(_damaged(folder, f"{os.path.basename(absent[0])} is not there"))
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
            # Without threads of its own for each of what may be a thousand files.
            ArrayRecordDataSource(files, reader_options={"max_parallelism": "0"}),
        )
        for split, files in instructions.items()
    }
    return Prepared(info.name, folder, tuple(class_label.names), splits)


def _is_label(feature: Any) -> bool:
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    if isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return isinstance(feature, tfds.features.ClassLabel) and bool(feature.num_classes)


def _one_shape(feature: Any) -> tuple[int, int, int] | None:
    """(height, width, channels) of an Image that always has the same and is of uint8."""
    if None in feature.shape or feature.np_dtype != np.uint8 or feature.shape[2] not in _MODES:
        return None
    height, width, channels = feature.shape
    return height, width, channels


def _choice(
    folder: Path,
    what: str,
    wanted: str | None,
    fitting: Mapping[str, bool],
    preferred: Sequence[Any],
) -> str:
    """Return the name of the feature that is the image or the label."""
    fit = [feature for feature, fits in fitting.items() if fits]
    if wanted is None and len(fit) == 1:
        return fit[0]
    for feature in [wanted] if wanted is not None else preferred:
        if feature in fit:
            return feature
    raise UserError(
        f"the {what} of the set in {folder} cannot be {wanted}: it must be one of {', '.join(fit)}"
        if wanted is not None and fit
        else f"the set in {folder} has {len(fit)} features that can be the {what} "
        f"({', '.join(fit) or 'of ' + ', '.join(fitting)}): "
        + (f"choose one by {what}=" if fit else "it is not for classification of images")
    )


def _damaged(folder: Path, problem: object) -> str:
    first_line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    return f"the data set in {folder} is damaged ({first_line}): delete it and prepare it again"
