"""Readers of the CIFAR binary format and of the IDX format of MNIST.

Both check the structure and not checksums: a shortened or repacked copy is accepted, a damaged one
is refused. Archives are read in memory and are not unpacked on disk.
"""

from __future__ import annotations

import gzip
import math
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

DIGIT_CLASSES = tuple("0123456789")
FASHION_MNIST_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

# The limit for the uncompressed size of one file, whatever its headers claim: several times the
# largest published set, and small enough for the memory.
MAX_BYTES = 1_000_000_000

_GZIP_MAGIC = b"\x1f\x8b"
_IDX_UINT8 = 0x08
_CIFAR_SHAPE = (3, 32, 32)
_CHUNK_BYTES = 1 << 20
# What gzip, zlib and tarfile raise for damaged input: tarfile raises ValueError for some damaged
# headers, and gzip raises EOFError for truncated data.
_DAMAGE = (EOFError, OSError, ValueError, zlib.error, tarfile.TarError)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FormatError(Exception):
    """Error: a file does not have its format.

    Attributes:
        reason: What is wrong.
        paths: The files to replace.
    """

    def __init__(self, reason: str, *paths: Path) -> None:
        super().__init__(reason)
        self.reason = reason
        self.paths = paths


@dataclass(frozen=True)
class CifarLayout:
    """The files inside a CIFAR binary archive.

    Attributes:
        folder: Top folder of the archive, also the name of an extracted copy.
        train, test: Record files, in order.
        class_names: Text file with one class name per line.
        label_counts: Number of values of each label byte of a record; the last byte is the label
            that is kept.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    class_names: str
    label_counts: tuple[int, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """Names of all files that are read."""
        return (*self.train, *self.test, self.class_names)


CIFAR10 = CifarLayout(
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{n}.bin" for n in range(1, 6)),
    test=("test_batch.bin",),
    class_names="batches.meta.txt",
    label_counts=(10,),
)
CIFAR100 = CifarLayout(
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    class_names="fine_label_names.txt",
    label_counts=(20, 100),  # coarse, fine
)


def read_cifar(
    source: Path, layout: CifarLayout
) -> tuple[tuple[Images, Labels], tuple[Images, Labels], tuple[str, ...]]:
    """Read a CIFAR tar.gz archive, or the folder extracted from one.

    Returns:
        ``(images, labels)`` of train, the same of test, and the class names: images uint8
        ``[N, 32, 32, 3]``, labels int32 ``[N]``.

    Raises:
        FormatError: The source is unreadable, damaged or truncated, lacks a file, has a file whose
            size is not a whole number of records, or has a label out of range.
    """
    try:
        read = _read_folder if source.is_dir() else _read_archive
        members = read(source, layout)
    except _DAMAGE as error:
        raise FormatError(_damage(error), source) from error
    missing = [name for name in layout.members if name not in members]
    if missing:
        raise FormatError(f"lacks {', '.join(missing)}", source)
    try:
        classes = _class_names(members[layout.class_names], layout)
        train, test = (
            # pop frees the raw bytes of each batch as soon as it is decoded.
            _join([_decode_records(name, members.pop(name), layout) for name in names])
            for names in (layout.train, layout.test)
        )
    except ValueError as error:
        raise FormatError(str(error), source) from error
    return train, test, classes


def read_idx(path: Path, item_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read a uint8 IDX file, gzip-compressed or plain, which the content shows and not the name.

    Returns:
        uint8 ``[N, *item_shape]``.

    Raises:
        FormatError: The file is unreadable, damaged or truncated, or its magic number, dimensions
            or length are not the expected ones.
    """
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not compressed:
                return _parse_idx(raw, item_shape)
            with gzip.open(raw) as stream:
                return _parse_idx(stream, item_shape)
    except _DAMAGE as error:
        raise FormatError(_damage(error), path) from error


def read_idx_pair(
    images_path: Path, labels_path: Path, image_shape: tuple[int, int], num_classes: int
) -> tuple[Images, Labels]:
    """Read an IDX file of grey images and the IDX file of their labels.

    Returns:
        Images uint8 ``[N, H, W, 1]`` and labels int32 ``[N]``.

    Raises:
        FormatError: As for ``read_idx``; or the numbers of images and labels differ, or a label is
            out of range.
    """
    images = read_idx(images_path, image_shape)
    labels = read_idx(labels_path, ())
    if len(images) != len(labels):
        raise FormatError(
            f"{len(images)} images but {len(labels)} labels", images_path, labels_path
        )
    if labels.max() >= num_classes:
        raise FormatError(f"has label {labels.max()}, expected 0..{num_classes - 1}", labels_path)
    return images[..., np.newaxis], labels.astype(np.int32)


def _parse_idx(stream: _Readable, item_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    rank = 1 + len(item_shape)
    header = stream.read(4 + 4 * rank)
    magic = bytes((0, 0, _IDX_UINT8, rank))
    if header[:4] != magic:
        raise ValueError(f"IDX magic is {header[:4].hex() or 'absent'}, expected {magic.hex()}")
    if len(header) < 4 + 4 * rank:
        raise ValueError("the IDX header is cut short")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    if shape[1:] != item_shape or shape[0] == 0:
        expected = ("N >= 1", *item_shape)
        raise ValueError(f"IDX dimensions are {list(shape)}, expected {list(expected)}")
    size = math.prod(shape)
    if size > MAX_BYTES:
        raise ValueError(f"claims {size} bytes of data, more than {MAX_BYTES}")
    # One byte more than needed: this finds excess data, and reads a gzip stream to its end, where
    # the CRC is checked.
    body = stream.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else str(len(body))
        raise ValueError(f"IDX header announces {size} bytes of data, found {found}")
    return np.frombuffer(body, np.uint8).reshape(shape)


class _BoundedReader:
    """A read-only stream that raises ValueError after MAX_BYTES.

    tarfile reads extended headers completely before their size can be checked, so the limit must
    be enforced in the stream below it.
    """

    def __init__(self, stream: _Readable) -> None:
        self._stream = stream
        self._left = MAX_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"expands to more than {MAX_BYTES} bytes")
        return data


def _read_archive(archive: Path, layout: CifarLayout) -> dict[str, bytes]:
    wanted = {f"{layout.folder}/{name}": name for name in layout.members}
    found: dict[str, bytes] = {}
    with gzip.open(archive) as unzipped:
        stream = _BoundedReader(unzipped)
        # Stream mode reads the compressed data once, without seeking back.
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK_BYTES) as tar:  # type: ignore[call-overload]
            for member in tar:
                if member.size > MAX_BYTES:
                    raise ValueError(
                        f"member {member.name} claims {member.size} bytes, more than {MAX_BYTES}"
                    )
                name = wanted.get(member.name.removeprefix("./"))
                content = tar.extractfile(member) if name and member.isreg() else None
                if name and content:
                    found[name] = content.read()
        # tarfile stops at the end mark of the tar; the gzip CRC comes after it.
        while stream.read(_CHUNK_BYTES):
            pass
    return found


def _read_folder(folder: Path, layout: CifarLayout) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in layout.members:
        path = folder / name
        if not path.is_file():
            continue
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise ValueError(f"{name} has {size} bytes, more than {MAX_BYTES}")
        found[name] = path.read_bytes()
    return found


def _class_names(text: bytes, layout: CifarLayout) -> tuple[str, ...]:
    # The published files end in blank lines.
    names = tuple(line.strip() for line in text.decode("utf-8").splitlines() if line.strip())
    if len(names) != layout.label_counts[-1]:
        raise ValueError(
            f"{layout.class_names} has {len(names)} class names, expected {layout.label_counts[-1]}"
        )
    return names


def _decode_records(name: str, data: bytes, layout: CifarLayout) -> tuple[Images, Labels]:
    """Split records of label bytes and a planar image into ``[N, 32, 32, 3]`` and ``[N]``."""
    label_bytes = len(layout.label_counts)
    record = label_bytes + math.prod(_CIFAR_SHAPE)
    if not data or len(data) % record:
        raise ValueError(
            f"{name} has {len(data)} bytes, not a whole number of records of {record} bytes"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    for column, count in enumerate(layout.label_counts):
        if (largest := records[:, column].max()) >= count:
            raise ValueError(f"{name} has label {largest}, expected 0..{count - 1}")
    planes = records[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return images, records[:, label_bytes - 1].astype(np.int32)


def _join(files: list[tuple[Images, Labels]]) -> tuple[Images, Labels]:
    images, labels = zip(*files, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _damage(error: Exception) -> str:
    """Return what is wrong with a file, given the exception of its reader."""
    if isinstance(error, EOFError):
        return "the gzip data is cut short"
    if isinstance(error, (zlib.error, gzip.BadGzipFile)):
        return f"the gzip data is damaged ({error})"
    if isinstance(error, tarfile.TarError):
        return f"the tar data is damaged or cut short ({error})"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return str(error)
