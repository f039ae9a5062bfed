"""The contents of a data set's original files, as TFDS examples ready to be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flax_resnet.data.tfds.archives import FileTree
from flax_resnet.data.tfds.origin import Origin
from flax_resnet.errors import UserError

Example = dict[str, Any]
"""The value of each feature, in a form that ``tfds.features.FeaturesDict`` encodes."""

_PHOTOS_PER_SHARD = 1000  # about 100 MB, as TFDS advises
# One of ImageNet's .JPEG files is a PNG.
_PHOTO_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class ShardContents:
    """The examples of one shard, which is one file of a prepared set.

    Attributes:
        split: Split of the shard.
        key: Text that identifies the contents, unique to each shard. An interrupted conversion
            resumes only where the keys of all shards are the same.
        examples: Function that returns the examples; it can be called again.
    """

    split: str
    key: str
    examples: Callable[[], Iterable[Example]]


@dataclass(frozen=True)
class DatasetContents:
    """The contents of a whole data set.

    Attributes:
        features: ``tfds.features.FeaturesDict``.
        label: Name of the feature that models predict: a ClassLabel or a Sequence of them.
        shards: All shards, grouped by split, and within a split in the order of the images.
        images: Total number of images, or None if counting would take long.
        notes: Sentences for the user about what was found.
        origin: What a set of images without a published name is written from.
    """

    features: Any
    label: str
    shards: tuple[ShardContents, ...]
    images: int | None
    notes: tuple[str, ...] = ()
    origin: Origin | None = None


def photo_shards(
    split: str, tree: FileTree, names: Sequence[str], example: Callable[[str, bytes], Example]
) -> list[ShardContents]:
    """Divide the photos of a split into shards.

    Args:
        split: Name of the split.
        tree: The original files.
        names: Names of the photos in ``tree``, in the order of the split.
        example: Function from the name and the content of a file to its example.
    """
    groups = [names[i : i + _PHOTOS_PER_SHARD] for i in range(0, len(names), _PHOTOS_PER_SHARD)]
    return [
        ShardContents(split, "\n".join(group), partial(photo_examples, tree, group, example))
        for group in groups
    ]


def photo_examples(
    tree: FileTree, names: Iterable[str], example: Callable[[str, bytes], Example]
) -> Iterator[Example]:
    """Yield the examples of photos; the arguments are those of ``photo_shards``.

    Raises:
        UserError: A file cannot be read, or is neither a JPEG nor a PNG by its first bytes.
    """
    for name in names:
        content = tree.read(name)
        if not content.startswith(_PHOTO_MAGIC):
            raise UserError(
                f"{name} in {tree.source} is no JPEG image: give a whole copy of the data set"
            )
        yield example(name, content)
