"""The writer of a prepared data set's folder, without TensorFlow.

It follows TFDS's documentation for data that other programs write ("external_tfrecord"), with
ArrayRecord files: TFDS's features encode the examples, and TFDS writes the descriptions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds  # type: ignore[import-untyped]
from array_record.python import array_record_module  # type: ignore[import-untyped]

from flax_resnet.data.tfds.contents import DatasetContents, ShardContents
from flax_resnet.data.tfds.folders import FORMAT, labels_file
from flax_resnet.errors import UserError

RESUME_FOLDER = "unfinished"
"""Subfolder of an unfinished set with the records that a resumed call needs."""

_STAMP = "stamp.txt"
# Each record in its own group, as TFDS does it, so that one record can be read without others.
_OPTIONS = "group_size:1"
# What NumPy raises for a file that is absent or was not written completely.
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True)
class _WrittenShard:
    """The labels and the size of a finished shard.

    Attributes:
        labels: Integers ``[n]``, or uint8 ``[n, classes]`` of 0 and 1.
        size: Size of all its examples, in bytes.
    """

    labels: npt.NDArray[np.integer]
    size: int


def write_folder(
    folder: Path,
    name: str,
    version: str,
    contents: DatasetContents,
    stamp: str,
    advance: Callable[[], None],
) -> dict[str, int]:
    """Write a data set, and resume what an earlier call has left unfinished.

    A shard gets its file name when it is complete, and its labels are then recorded for a resumed
    call. Shards of a call with another ``stamp`` or other contents are deleted.

    Args:
        folder: Folder of the set; no other process may write to it.
        name, version: Name and version of the set.
        contents: Contents of the original files.
        stamp: Identifies the original files.
        advance: Function that is called once for each image written.

    Returns:
        Number of images of each split.

    Raises:
        UserError: A shard has no images, or its examples cannot be made.
        OSError: The folder cannot be written.
    """
    files = _file_names(name, contents.shards)
    _start(folder, "\n\n".join([stamp, *files, *(shard.key for shard in contents.shards)]))
    written: dict[str, list[_WrittenShard]] = {}
    for file, shard in zip(files, contents.shards, strict=True):
        done = _finished(folder, file)
        if done is None:
            done = _write_shard(folder, file, shard, contents, advance)
        else:
            for _ in done.labels:
                advance()
        written.setdefault(shard.split, []).append(done)
    for split, shards in written.items():
        # This file is not TFDS's. Readers need not read every image of the set for its labels.
        labels = np.concatenate([done.labels for done in shards])
        np.save(labels_file(folder, split, contents.label), labels)
    _describe(folder, name, version, contents, written)
    shutil.rmtree(folder / RESUME_FOLDER)
    return {split: sum(len(done.labels) for done in shards) for split, shards in written.items()}


def _file_names(name: str, shards: Sequence[ShardContents]) -> list[str]:
    totals = Counter(shard.split for shard in shards)
    seen: Counter[str] = Counter()
    files = []
    for shard in shards:
        template = _template(Path(), name, shard.split)
        path = template.sharded_filepath(
            shard_index=seen[shard.split], num_shards=totals[shard.split]
        )
        files.append(path.name)
        seen[shard.split] += 1
    return files


def _template(folder: Path, name: str, split: str) -> Any:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=split, filetype_suffix=FORMAT
    )


def _start(folder: Path, identity: str) -> None:
    """Delete everything in the folder but finished shards of the same identity."""
    records = folder / RESUME_FOLDER
    records.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    stamp = records / _STAMP
    if not stamp.exists() or stamp.read_text() != digest:
        for record in records.glob("*.npz"):
            record.unlink()
        stamp.write_text(digest)
    for path in folder.iterdir():
        if path != records and _finished(folder, path.name) is None:
            path.unlink()


def _finished(folder: Path, file: str) -> _WrittenShard | None:
    """Return labels and size of a finished shard, or None if it is not finished."""
    try:
        with np.load(folder / RESUME_FOLDER / f"{file}.npz", allow_pickle=False) as record:
            done = _WrittenShard(record["labels"], int(record["size"]))
    except _UNREADABLE:
        return None
    return done if (folder / file).exists() else None


def _write_shard(
    folder: Path,
    file: str,
    shard: ShardContents,
    contents: DatasetContents,
    advance: Callable[[], None],
) -> _WrittenShard:
    label_row = _label_encoder(contents)
    unfinished = folder / f"{file}.part"
    labels, size = [], 0
    with _storing():
        writer = array_record_module.ArrayRecordWriter(os.fspath(unfinished), _OPTIONS)
    try:
        for example in shard.examples():
            record = contents.features.serialize_example(example)
            with _storing():
                writer.write(record)
            labels.append(label_row(example[contents.label]))
            size += len(record)
            advance()
    finally:
        with _storing():
            writer.close()
    if not labels:
        raise UserError(f"{shard.key} ({shard.split}) has no images: give a whole copy")
    # After a power failure there must be no record of a shard that was not stored.
    with open(unfinished, "rb") as stored:
        os.fsync(stored.fileno())
    os.replace(unfinished, folder / file)
    done = _WrittenShard(np.array(labels), size)
    resume_file = folder / RESUME_FOLDER / f"{file}.npz"
    with open(resume_file.with_suffix(".part"), "wb") as out:
        np.savez(out, labels=done.labels, size=done.size)
    os.replace(resume_file.with_suffix(".part"), resume_file)
    return done


def _label_encoder(contents: DatasetContents) -> Callable[[Any], npt.ArrayLike]:
    """Return the function from an example's label to its row in ``_WrittenShard.labels``."""
    feature = contents.features[contents.label]
    if isinstance(feature, tfds.features.ClassLabel):
        return np.int32
    classes = feature.feature.num_classes

    def flags(labels: Sequence[int]) -> npt.NDArray[np.uint8]:
        row = np.zeros(classes, np.uint8)
        row[list(labels)] = 1
        return row

    return flags


def _describe(
    folder: Path,
    name: str,
    version: str,
    contents: DatasetContents,
    written: Mapping[str, Sequence[_WrittenShard]],
) -> None:
    """Write the descriptions of the set, which TFDS reads."""
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(done.labels) for done in shards],
            num_bytes=sum(done.size for done in shards),
            filename_template=_template(folder, name, split),
        )
        for split, shards in written.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=contents.features,
        split_infos=splits,
        version=version,
        # The check would read an example with TensorFlow.
        check_data=False,
        description=f"{name}, written by flax_resnet in the order of the original files.",
        supervised_keys=("image", contents.label),
        disable_shuffling=True,
    )


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """Turn the RuntimeErrors of ArrayRecord into OSErrors, as a failed write raises them.

    Raises:
        OSError: A RuntimeError was raised inside the block.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error
