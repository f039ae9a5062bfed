"""Splits: their names, as people give them to folders and lists, and the division into them."""

from __future__ import annotations

import bisect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

SPLITS = ("train", "validation", "test")
UNLABELED = "unlabeled"
# The split of each word, in lower case: the keywords by which Hugging Face's ``datasets`` finds
# splits (data_files.py, SPLIT_KEYWORDS), and VOC's trainval.
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
SplitRatios = tuple[float, float, float]
"""Proportions of train, validation and test, such as ``(8, 1, 1)``."""
SPLIT_RATIOS: SplitRatios = (8, 1, 1)

_UNLABELED_WORDS = ("pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled")
_KEYWORDS = SPLIT_ALIASES | dict.fromkeys(_UNLABELED_WORDS, UNLABELED)
# Words that say nothing about what is in a folder.
_NEUTRAL = frozenset(
    (
        *("set", "sets", "data", "dataset", "datasets", "archive", "input", "raw", "all"),
        *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
        *("jpg", "jpeg", "png", "split", "splits", "folder", "folders", "dir", "class", "classes"),
    )
)
_TOKENS = re.compile(r"[^\W\d_]+|\d+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def divide(
    fractions: Sequence[float], labels: Sequence[int], ratios: SplitRatios = SPLIT_RATIOS
) -> list[str]:
    """Return the split of each image, which depends on the contents of its class alone.

    The hash of the content, as a number in [0, 1), falls into the interval of one split. So equal
    images are in the same split, also in different classes, and every class is divided in these
    proportions up to chance. If chance gives a class none in a split, although it has as many
    different images as there are splits, its image whose number is nearest to the interval goes
    there. Train comes first, and has an image of every class.

    An image keeps its split when others are added, except in classes that are so small.

    Args:
        fractions: A number in [0, 1) for each image, the same for the same content.
        labels: The class of each image.
        ratios: Proportions of the splits.
    """
    edges = _edges(ratios)
    split_of = {fraction: SPLITS[bisect.bisect_right(edges, fraction)] for fraction in fractions}
    classes_of: defaultdict[float, set[int]] = defaultdict(set)
    contents_of: defaultdict[int, set[float]] = defaultdict(set)
    for fraction, label in zip(fractions, labels, strict=True):
        classes_of[fraction].add(label)
        contents_of[label].add(fraction)
    wanted = [split for split, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0]
    for _, contents in sorted(contents_of.items()):
        # Images that another class has too stay, because moving one would change that class.
        own = sorted(content for content in contents if len(classes_of[content]) == 1)
        for split in wanted:
            counts = Counter(split_of[content] for content in contents)
            if counts[split] or (split != "train" and len(contents) < len(wanted)):
                continue
            spare = [content for content in own if counts[split_of[content]] > 1]
            if movable := spare or (own if split == "train" else []):
                low, high = (0.0, *edges)[SPLITS.index(split) :][:2]
                nearest = min(movable, key=lambda at: max(low - at, at - high))
                split_of[nearest] = split
    return [split_of[fraction] for fraction in fractions]


def split_at(fraction: float, ratios: SplitRatios = SPLIT_RATIOS) -> str:
    """Return the split whose interval has a number in [0, 1)."""
    return SPLITS[bisect.bisect_right(_edges(ratios), fraction)]


def _edges(ratios: SplitRatios) -> list[float]:
    """Return where the interval of each split ends."""
    total = sum(ratios)
    return [sum(ratios[: number + 1]) / total for number in range(len(ratios))]


def is_neutral(name: str) -> bool:
    """Return whether a name says nothing about what is in a folder, such as ``Images_2``."""
    words = {token for token in _tokens(name) if not token.isdigit()}
    return bool(words) and words <= _NEUTRAL


def same_name(one: str, other: str) -> bool:
    """Return whether two names differ in case and separators only."""
    return one == other or (bool(_tokens(one)) and _tokens(one) == _tokens(other))


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each name among ``names`` that names one.

    ``Training``, ``test_set`` and ``valid-images`` do so by themselves; ``seg_train`` and
    ``seg_test`` do so together, because they differ in the split only.

    Args:
        names: Names of the folders next to each other.

    Returns:
        One of ``SPLITS`` or ``UNLABELED`` for each name of a split.
    """
    by_rest: defaultdict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        if found := _split_and_rest(name):
            by_rest[found[1]][name] = found[0]
    plain = by_rest.pop((), {})
    pairs = [found for found in by_rest.values() if {"train"} < set(found.values())]
    if set(plain.values()) <= {UNLABELED} and len(pairs) == 1:
        return plain | pairs[0]
    return plain


def split_words(name: str) -> tuple[str, ...]:
    """Return what a name that names a split has besides numbers and neutral words: its split and
    its other words; empty if it names none."""
    found = _split_and_rest(name)
    return () if found is None else (found[0], *found[1])


def _split_and_rest(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the split that a name has as a word, and its other words that are not neutral."""
    splits, rest = [], []
    for token in _tokens(name):
        split = _keyword(token)
        if split:
            splits.append(split)
        elif token not in _NEUTRAL and not token.isdigit():
            rest.append(token)
    return (splits[0], tuple(rest)) if len(splits) == 1 else None


def _keyword(token: str) -> str | None:
    """Return the split of a word such as ``train`` or ``trainset``."""
    if token in _KEYWORDS:
        return _KEYWORDS[token]
    stems = (token.removesuffix(end) for end in _NEUTRAL if token.endswith(end))
    return next((_KEYWORDS[stem] for stem in stems if stem in _KEYWORDS), None)


def _tokens(name: str) -> list[str]:
    return [token.lower() for token in _TOKENS.findall(_CAMEL_CASE.sub(" ", name))]
