"""What was found in a data set's original files, ready to be written as TFDS examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flax_resnet.data.tfds.archives import Tree
from flax_resnet.errors import UserError

Example = dict[str, Any]
"""The value of each feature, in a form that `tfds.features.FeaturesDict` encodes."""

_PHOTOS_PER_PART = 1000  # about 100 MB, as TFDS advises
# One of ImageNet's files named .JPEG is a PNG.
_PHOTO_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True)
class Part:
    """The examples of one file of a prepared set.

    Attributes:
        split: the split that it is a part of.
        key: what it holds, in words of any kind; unlike that of any other part.
        examples: makes them, again at each call.
    """

    split: str
    key: str
    examples: Callable[[], Iterable[Example]]


@dataclass(frozen=True)
class Contents:
    """All of a data set.

    Attributes:
        features: `tfds.features.FeaturesDict`.
        label: the feature that models are to predict: a ClassLabel or a Sequence of them.
        parts: in the order of the images, split by split.
        images: how many there are in all, or None where counting takes long.
        notes: sentences for the user about what was found.
    """

    features: Any
    label: str
    parts: tuple[Part, ...]
    images: int | None
    notes: tuple[str, ...] = ()


def photo_parts(
    split: str, tree: Tree, names: Sequence[str], example: Callable[[str, bytes], Example]
) -> list[Part]:
    """Divide photos among parts.

    Args:
        names: files of `tree`, in the order of the split.
        example: from the name of a file and its content to the example.
    """
    cuts = [names[i : i + _PHOTOS_PER_PART] for i in range(0, len(names), _PHOTOS_PER_PART)]
    return [Part(split, "\n".join(cut), partial(photos, tree, cut, example)) for cut in cuts]


def photos(
    tree: Tree, names: Iterable[str], example: Callable[[str, bytes], Example]
) -> Iterator[Example]:
    """Yield the examples of photos; the arguments are those of `photo_parts`.

    Raises:
        UserError: a file cannot be read, or does not begin as a JPEG does.
    """
    for name in names:
        content = tree.read(name)
        if not content.startswith(_PHOTO_MAGIC):
            raise UserError(
                f"{name} in {tree.source} is no JPEG image: give a whole copy of the data set"
            )
        yield example(name, content)
