"""Readers for the CIFAR binary format and the IDX format of MNIST.

Both check structure, not checksums: a shortened or re-packed copy is fine, a
damaged one is not. Archives are read in memory and never unpacked on disk.
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

# Several times the largest published set, and small enough to hold in memory.
# It bounds what one file may expand to, whatever its headers claim.
MAX_BYTES = 1_000_000_000

_GZIP_MAGIC = b"\x1f\x8b"
_IDX_UINT8 = 0x08
_CIFAR_SHAPE = (3, 32, 32)
_CHUNK_BYTES = 1 << 20
# What gzip, zlib and tarfile raise for damaged input. tarfile lets a ValueError
# out for some damaged headers; gzip says "cut short" with EOFError.
_DAMAGE = (EOFError, OSError, ValueError, zlib.error, tarfile.TarError)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FormatError(Exception):
    """A file is not what its format says: `reason`, and the `paths` to replace."""

    def __init__(self, reason: str, *paths: Path) -> None:
        super().__init__(reason)
        self.reason = reason
        self.paths = paths


@dataclass(frozen=True)
class CifarLayout:
    """Names inside a CIFAR binary archive.

    Attributes:
        folder: the archive's top folder, also the name of an extracted copy.
        train, test: record files, in order.
        class_names: text file with one class name per line.
        label_counts: number of values of each label byte of a record; the last
            byte is the label that is kept.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    class_names: str
    label_counts: tuple[int, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """All file names that are read."""
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
        (images, labels) of train, the same of test, and the class names:
        images uint8 [N, 32, 32, 3], labels int32 [N].

    Raises:
        FormatError: unreadable, damaged or cut short, a member missing, a size
            that is no whole number of records, or a label out of range.
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
            # pop: the raw bytes of each batch go as soon as it is decoded.
            _join([_decode_records(name, members.pop(name), layout) for name in names])
            for names in (layout.train, layout.test)
        )
    except ValueError as error:
        raise FormatError(str(error), source) from error
    return train, test, classes


def read_idx(path: Path, item_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read a uint8 IDX file, gzip-compressed or plain (told by content, not name).

    Returns:
        uint8 [N, *item_shape].

    Raises:
        FormatError: unreadable, damaged or cut short, a magic number or
            dimensions other than expected, or a length that differs from them.
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
        images uint8 [N, H, W, 1] and labels int32 [N].

    Raises:
        FormatError: as `read_idx`; also unequal counts or a label out of range.
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
    # One byte more than wanted: finds excess data, and takes a gzip stream to
    # its end, which is where the CRC is checked.
    body = stream.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else str(len(body))
        raise ValueError(f"IDX header announces {size} bytes of data, found {found}")
    return np.frombuffer(body, np.uint8).reshape(shape)


class _BoundedReader:
    """A read-only stream that refuses to give more than MAX_BYTES.

    tarfile reads extended headers whole before any size can be looked at, so
    the bound has to sit below it.
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
        # Stream mode: one pass, no seeking back through the compressed data.
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
        # tarfile stops at the tar end mark; the gzip CRC comes after it.
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
    """Split records of label bytes and a planar image into [N, 32, 32, 3] and [N]."""
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


def _join(parts: list[tuple[Images, Labels]]) -> tuple[Images, Labels]:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _damage(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "the gzip data is cut short"
    if isinstance(error, (zlib.error, gzip.BadGzipFile)):
        return f"the gzip data is damaged ({error})"
    if isinstance(error, tarfile.TarError):
        return f"the tar data is damaged or cut short ({error})"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return str(error)
