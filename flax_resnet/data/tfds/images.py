"""The images of a folder, a list or shards as TFDS examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from flax_resnet.data.images import Records, find_images, map_in_threads, read_bytes
from flax_resnet.data.images.digests import FileDigest, digest_files
from flax_resnet.data.images.members import Member
from flax_resnet.data.tfds.contents import DatasetContents, Example, ShardContents
from flax_resnet.data.tfds.origin import Origin, digest_of
from flax_resnet.errors import UserError

_BYTES_PER_SHARD = 100_000_000  # about what TFDS and WebDataset advise
_IMAGES_PER_SHARD = 10_000
_KNOWN_TO_TFDS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def read_images(
    source: Path, scratch: Path, *, shuffle: int | None = None, photos_only: bool = True
) -> DatasetContents:
    """Read what ``find_images`` finds, divided into the splits that a run would train on.

    Args:
        source: A folder, a list or shards.
        scratch: Not used.
        shuffle: Seed of a random order of the images of each split; by default the source's order.
        photos_only: Whether files that are neither JPEG nor PNG are refused.

    Raises:
        UserError: As for ``find_images``; or a file cannot be read.
    """
    import tensorflow_datasets as tfds  # type: ignore[import-untyped]

    found = find_images(source)
    shards, hashes = [], {}
    for split, records in found.splits.items():
        order = np.arange(len(records))
        if shuffle is not None:
            order = np.random.default_rng([shuffle]).permutation(order)
        digests = digest_files(records.paths)
        shards += _shards(split, records, order, digests, photos_only)
        contents = ("" if digest is None else digest.content for digest in digests)
        rows = list(zip(records.labels.tolist(), contents, strict=True))
        hashes[split] = digest_of(rows[n] for n in order)
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=found.classes)}
    )
    notes = list(found.notes)
    if found.left_out:
        notes.append(f"{source}: left out are {', '.join(list(found.left_out)[:3])}")
    images = sum(map(len, found.splits.values()))
    origin = Origin(str(source.resolve()), shuffle, tuple(found.classes), hashes)
    return DatasetContents(features, "label", tuple(shards), images, tuple(notes), origin)


def _shards(
    split: str,
    records: Records,
    order: np.ndarray,
    digests: Sequence[FileDigest | None],
    photos_only: bool,
) -> list[ShardContents]:
    """Divide the images of a split into shards of equal numbers."""
    if not len(order):
        return []
    total = sum(map_in_threads(_size, records.paths, 64))
    number = max(math.ceil(total / _BYTES_PER_SHARD), math.ceil(len(order) / _IMAGES_PER_SHARD))
    return [
        ShardContents(
            split,
            "\n".join(f"{records.labels[n]} {digests[n]}" for n in rows),
            partial(_examples, records, rows, photos_only),
        )
        for rows in (part.tolist() for part in np.array_split(order, number))
    ]


def _size(path: str) -> int:
    return path.size if isinstance(path, Member) else Path(path).stat().st_size


def _examples(records: Records, rows: Sequence[int], photos_only: bool) -> Iterator[Example]:
    for row in rows:
        content = read_bytes(records.paths[row])
        if photos_only and not content.startswith(_KNOWN_TO_TFDS):
            raise UserError(
                f"{records.paths[row]} is neither a JPEG nor a PNG image, which TFDS needs: remove "
                "it, or write --to webdataset or parquet"
            )
        yield {"image": content, "label": int(records.labels[row])}
