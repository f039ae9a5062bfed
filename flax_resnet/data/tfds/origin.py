"""What a set that ``prepare`` wrote of a folder, a list or shards was written from.

Such a set is called as its folder is, so that two folders of one name would be taken for one
another. ``.prepared_from.json`` in the set's folder tells them apart::

    {"source": "/data/cats/train.csv", "shuffle": null, "classes": ["cat", "dog"],
     "digests": {"train": "5d1c...", "validation": "9f86..."}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from flax_resnet.text_files import parse_json

FILE = ".prepared_from.json"


@dataclass(frozen=True)
class Origin:
    """The folder, list or shards of a set; equal where the sets are.

    Attributes:
        source: Its path, for messages.
        shuffle: Seed of the order of the images; None for that of the source.
        classes: Names of the classes, in the order of the labels.
        digests: Hash of the labels and images of each split in their order, see ``digest_of``.
    """

    source: str = field(compare=False)
    shuffle: int | None
    classes: tuple[str, ...]
    digests: Mapping[str, str]

    def __str__(self) -> str:
        return self.source + ("" if self.shuffle is None else f" with --shuffle {self.shuffle}")


def digest_of(images: Iterable[tuple[int, str]]) -> str:
    """Return a hash of the label and of the hash of the content of each image, in their order."""
    whole = hashlib.blake2b(digest_size=16)
    for label, content in images:
        whole.update(f"{label} {content}\n".encode())
    return whole.hexdigest()


def write_origin(folder: Path, origin: Origin) -> None:
    """Keep the origin of a set in its folder.

    Raises:
        OSError: The folder cannot be written.
    """
    (folder / FILE).write_text(json.dumps(asdict(origin)) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin | None:
    """Return the origin of a set; None of a published set, or where it was not kept."""
    try:
        value = parse_json((folder / FILE).read_bytes())
        digests = {str(split): str(digest) for split, digest in value["digests"].items()}
        return Origin(str(value["source"]), value["shuffle"], tuple(value["classes"]), digests)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # damage too: the set can be read without the file
