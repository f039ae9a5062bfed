"""The folder in which TFDS keeps a prepared data set, written without TensorFlow.

This is TFDS's documented way for data that other programs write ("external_tfrecord"), with
ArrayRecord files: its features encode the examples, and it writes the descriptions itself.
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

from flax_resnet.data.tfds.contents import Contents, Part
from flax_resnet.data.tfds.folder import FORMAT, labels_file
from flax_resnet.errors import UserError

NOTES = "unfinished"
"""A folder inside the unfinished one, for what is of no use once it is finished."""

_STAMP = "stamp.txt"
# Each record in a group of its own, as TFDS does it: so that one can be read without others.
_OPTIONS = "group_size:1"
# What NumPy raises for a note that is not there, or was not written to its end.
_NO_NOTE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


@dataclass(frozen=True)
class _Written:
    """What is noted of a finished file.

    Attributes:
        labels: integers [n], or uint8 [n, classes] of 0 and 1.
        size: of its examples together, in bytes.
    """

    labels: npt.NDArray[np.integer]
    size: int


def write_folder(
    folder: Path, name: str, version: str, contents: Contents, stamp: str, shown: Callable[[], None]
) -> dict[str, int]:
    """Write a data set, going on with what an earlier call has left of it.

    A file is renamed to its own name and noted when it is whole. None is kept from a call with
    another `stamp`, or with parts that hold something else.

    Args:
        folder: where the set is made; no other process may write to it.
        stamp: identifies the original files.
        shown: is called once for each image that is in.

    Returns:
        Split -> number of images.

    Raises:
        UserError: a part has no images; and what making its examples raises.
        OSError: the folder cannot be written.
    """
    files = _file_names(name, contents.parts)
    _start(folder, "\n\n".join([stamp, *files, *(part.key for part in contents.parts)]))
    written: dict[str, list[_Written]] = {}
    for file, part in zip(files, contents.parts, strict=True):
        done = _noted(folder, file)
        if done is None:
            done = _write_part(folder, file, part, contents, shown)
        else:
            for _ in done.labels:
                shown()
        written.setdefault(part.split, []).append(done)
    for split, done_parts in written.items():
        # Not TFDS's. It saves readers from reading every image of a set for its labels.
        labels = np.concatenate([done.labels for done in done_parts])
        np.save(labels_file(folder, split, contents.label), labels)
    _describe(folder, name, version, contents, written)
    shutil.rmtree(folder / NOTES)
    return {split: sum(len(done.labels) for done in parts) for split, parts in written.items()}


def _file_names(name: str, parts: Sequence[Part]) -> list[str]:
    totals = Counter(part.split for part in parts)
    seen: Counter[str] = Counter()
    files = []
    for part in parts:
        template = _template(Path(), name, part.split)
        path = template.sharded_filepath(
            shard_index=seen[part.split], num_shards=totals[part.split]
        )
        files.append(path.name)
        seen[part.split] += 1
    return files


def _template(folder: Path, name: str, split: str) -> Any:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=split, filetype_suffix=FORMAT
    )


def _start(folder: Path, identity: str) -> None:
    """Empty the folder, except of finished files of the same identity and their notes."""
    notes = folder / NOTES
    notes.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    stamp = notes / _STAMP
    if not stamp.exists() or stamp.read_text() != digest:
        for note in notes.glob("*.npz"):
            note.unlink()
        stamp.write_text(digest)
    for path in folder.iterdir():
        if path != notes and _noted(folder, path.name) is None:
            path.unlink()


def _noted(folder: Path, file: str) -> _Written | None:
    """Return what is noted of a file, or None if it is not finished."""
    try:
        with np.load(folder / NOTES / f"{file}.npz", allow_pickle=False) as note:
            done = _Written(note["labels"], int(note["size"]))
    except _NO_NOTE:
        return None
    return done if (folder / file).exists() else None


def _write_part(
    folder: Path, file: str, part: Part, contents: Contents, shown: Callable[[], None]
) -> _Written:
    label_row = _label_row(contents)
    unfinished = folder / f"{file}.part"
    labels, size = [], 0
    with _storing():
        writer = array_record_module.ArrayRecordWriter(os.fspath(unfinished), _OPTIONS)
    try:
        for example in part.examples():
            record = contents.features.serialize_example(example)
            with _storing():
                writer.write(record)
            labels.append(label_row(example[contents.label]))
            size += len(record)
            shown()
    finally:
        with _storing():
            writer.close()
    if not labels:
        raise UserError(f"{part.key} ({part.split}) has no images: give a whole copy")
    # A note that survives a loss of power must not be of a file that did not.
    with open(unfinished, "rb") as whole:
        os.fsync(whole.fileno())
    os.replace(unfinished, folder / file)
    done = _Written(np.array(labels), size)
    note = folder / NOTES / f"{file}.npz"
    with open(note.with_suffix(".part"), "wb") as out:
        np.savez(out, labels=done.labels, size=done.size)
    os.replace(note.with_suffix(".part"), note)
    return done


def _label_row(contents: Contents) -> Callable[[Any], npt.ArrayLike]:
    """Return the function from an example's label to what is noted of it."""
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
    contents: Contents,
    written: Mapping[str, Sequence[_Written]],
) -> None:
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(done.labels) for done in parts],
            num_bytes=sum(done.size for done in parts),
            filename_template=_template(folder, name, split),
        )
        for split, parts in written.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=contents.features,
        split_infos=splits,
        version=version,
        # It would read an example with TensorFlow.
        check_data=False,
        description=f"{name}, written by flax_resnet in the order of the original files.",
        supervised_keys=("image", contents.label),
        disable_shuffling=True,
    )


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """Turn ArrayRecord's errors, which all are RuntimeErrors, into those of a failed write.

    Raises:
        OSError: in place of RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error
