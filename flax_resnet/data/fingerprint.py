"""The fingerprint of a data set, by which a run knows the data it was trained on.

A run keeps it as ``data.json``::

    {"classes": ["cat", "dog"],
     "splits": {"train": {"images": 80, "digest": "5d1c...", "files": {"cat/1.jpg": "9f86..."}},
                "validation": {...}, "test": {...}}}

The digest of a split is a hash of its images in their order: of each the label, and the hash of its
file's content. So a folder can be moved, and files can be renamed as long as their order stays. In
a folder that would take long to read, the path below the folder and the size take the place of the
content, and ``files`` is empty. The hashes of images in shards are in the index of these, so that
they are compared in a set of any size. A prepared set is identified by the names and sizes of its
files and, where ``flax-resnet prepare`` wrote it, by its labels and the hashes of the images that
it was written from; earlier versions kept a hash of the names and sizes alone. All hashes are
BLAKE2b of 128 bits, as hex digits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flax_resnet.data.datasets import Dataset, Split
from flax_resnet.data.images import (
    SPLITS,
    ImageFiles,
    Member,
    Records,
    first_few,
    map_in_threads,
)
from flax_resnet.data.pipeline import Source
from flax_resnet.data.tfds.dataset import Subset
from flax_resnet.data.tfds.origin import read_origin
from flax_resnet.errors import UserError, first_line
from flax_resnet.storage import local_data, read_bytes
from flax_resnet.text_files import parse_json

FILE = "data.json"

# A folder with more files or bytes than this is identified by paths and sizes.
MOST_FILES = 100_000
MOST_BYTES = 10 << 30


@dataclass(frozen=True)
class SplitFingerprint:
    """The fingerprint of a split.

    Attributes:
        images: Number of images.
        digest: Hash of all labels and images in their order.
        files: The hash of each file's content by its path below the folder; empty for images that
            have no files of their own, or are not identified by their contents.
        weaker: Digests of fewer facts, which earlier versions kept, or a run on a set before it was
            prepared anew; ``data.json`` does not have them.
    """

    images: int
    digest: str
    files: Mapping[str, str] = field(default_factory=dict)
    weaker: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a data set.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        splits: The fingerprint of each split.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, SplitFingerprint]

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as JSON values."""
        value = asdict(self)
        for split in value["splits"].values():
            del split["weaker"]
        return value

    @classmethod
    def from_json(cls, value: Any) -> Fingerprint:
        """Return the fingerprint that ``to_json`` turned into these values.

        Raises:
            TypeError, KeyError, AttributeError: The values are others.
        """
        splits = {name: SplitFingerprint(**value["splits"][name]) for name in SPLITS}
        return cls(tuple(value["classes"]), splits)

    def contents(self, splits: Iterable[str] = SPLITS) -> frozenset[str]:
        """Return the hashes of the contents of all files in some splits."""
        return frozenset(one for split in splits for one in self.splits[split].files.values())


def fingerprint(dataset: Dataset, root: str | os.PathLike[str] | None = None) -> Fingerprint:
    """Return the fingerprint of a data set.

    Only files that are new or changed are read, see ``images.digest_files``.

    Args:
        dataset: The data set.
        root: The folder or the list that its files were found in.
    """
    sources: dict[str, Source] = {split: getattr(dataset, split) for split in SPLITS}
    is_large = _is_large([path for source in sources.values() for path in _paths(source)])
    folder = local_data("." if root is None else root)
    base = os.path.abspath(folder if folder.is_dir() else folder.parent)
    splits = {split: _of_split(source, is_large, base) for split, source in sources.items()}
    return Fingerprint(dataset.classes, splits)


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """Read ``data.json`` of a run's folder; None if there is no such file.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / FILE
    try:
        return Fingerprint.from_json(parse_json(read_bytes(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as the fingerprint of a run's data ({first_line(error)}): copy "
            "the run's folder again, or choose another."
        ) from error


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Describe what differs, in clauses such as ``2 images were added (cat/8.jpg, cat/9.jpg)``.

    The list is empty for the same data.

    Args:
        before: The fingerprint that was kept, maybe by an earlier version.
        now: That of the data as they are now.
    """
    found = list(_class_differences(before.classes, now.classes))
    changed = [name for name in SPLITS if not _is_same(before.splits[name], now.splits[name])]
    if not changed:
        return found
    old, new = _split_of_files(before), _split_of_files(now)
    files = {
        "added": sorted(set(new) - set(old)),
        "removed": sorted(set(old) - set(new)),
        "changed": [path for path in sorted(set(old) & set(new)) if old[path][1] != new[path][1]],
        "moved to another split": [
            path
            for path in sorted(set(old) & set(new))
            if old[path][1] == new[path][1] and old[path][0] != new[path][0]
        ],
    }
    if not old or not new:  # there are no lists of files to compare
        files = {}
    clauses = [
        f"{len(paths):,} {'image was' if len(paths) == 1 else 'images were'} {how} "
        f"({first_few(paths)})"
        for how, paths in files.items()
        if paths
    ]
    for name in [] if clauses else changed:
        counts = before.splits[name].images, now.splits[name].images
        if counts[0] != counts[1]:
            clauses.append(f"{name} had {counts[0]:,} images and has {counts[1]:,}")
        else:
            clauses.append(f"the images, labels or order of {name} are others")
    return found + clauses


def _class_differences(before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    if set(before) == set(now):
        if before != now:
            yield "the order of the classes is another"
    elif set(before) & set(now):
        for verb, names in (
            ("added", [name for name in now if name not in before]),
            ("removed", [name for name in before if name not in now]),
        ):
            if names:
                noun = "the class" if len(names) == 1 else "the classes"
                yield f"{noun} {first_few(names)} {'was' if len(names) == 1 else 'were'} {verb}"
    else:
        yield f"the classes were {first_few(before)} and are {first_few(now)}"


def _is_same(before: SplitFingerprint, now: SplitFingerprint) -> bool:
    return before.images == now.images and before.digest in (now.digest, *now.weaker)


def _split_of_files(data: Fingerprint) -> dict[str, tuple[str, str]]:
    """Return the split and the hash of each file, by its path."""
    return {
        path: (name, one)
        for name, split in data.splits.items()
        for path, one in split.files.items()
    }


def _paths(source: Source) -> Sequence[str]:
    """Return the paths of a split's files; empty where images have no files of their own."""
    files = source.files if isinstance(source, ImageFiles) else None
    return files.paths if isinstance(files, Records) else ()


def _is_large(paths: Sequence[str]) -> bool:
    return len(paths) > MOST_FILES or sum(map_in_threads(_size, paths, 64)) > MOST_BYTES


def _size(path: str) -> int:
    if isinstance(path, Member):
        return path.size
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _of_split(source: Source, is_large: bool, base: str) -> SplitFingerprint:
    if isinstance(source, ImageFiles) and isinstance(source.files, Subset):
        return _of_prepared(source.files)
    labels = np.ascontiguousarray(source.labels)
    if isinstance(source, Split):
        shape = str(source.images.shape).encode()
        images = np.ascontiguousarray(source.images)
        return SplitFingerprint(len(source), _digest([shape, images.data, labels.data]))
    names = [os.path.relpath(path, base) for path in _paths(source)]
    if is_large and not any(isinstance(path, Member) for path in _paths(source)):
        sizes = map_in_threads(_size, _paths(source), 64)
        facts = [f"{name} {size}" for name, size in zip(names, sizes, strict=True)]
        files = {}
    else:
        assert isinstance(source, ImageFiles)
        facts = source.content_digests()
        files = {} if is_large else dict(zip(names, facts, strict=True))
    rows = (
        f"{label.tolist()} {fact}\n".encode(errors="surrogatepass")
        for label, fact in zip(labels, facts, strict=True)
    )
    return SplitFingerprint(len(source), _digest(rows), files)


def _of_prepared(subset: Subset) -> SplitFingerprint:
    """Identify images of a prepared set by its files, their labels and what it was written from.

    Names and sizes of files hardly tell photos apart, because ArrayRecord fills blocks of 64 KiB.
    """
    folder = subset.whole.folder
    facts = [
        f"{path.name} {path.stat().st_size}\n".encode()
        for path in sorted(folder.glob("*.array_record*"))
    ]
    facts += [subset.whole.name.encode(), subset.indices.astype(np.int64).tobytes()]
    digests = [_digest(facts)]
    labels = subset.whole.stored_labels()
    if labels is not None:
        facts.append(labels[subset.indices].tobytes())
        digests.append(_digest(facts))
    origin = read_origin(folder)
    if origin is not None:
        facts.append(origin.digests.get(subset.whole.name, "").encode(errors="surrogatepass"))
        digests.append(_digest(facts))
    *weaker, digest = digests
    return SplitFingerprint(len(subset), digest, weaker=tuple(weaker))


def _digest(chunks: Iterable[Any]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        whole.update(chunk)
    return whole.hexdigest()
