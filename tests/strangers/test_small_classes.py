"""Classes of few photos: each split has some of each class, where there are enough."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import open_dataset
from flax_resnet.data.images import divide, find_images

SPLITS = ("train", "validation", "test")


def split_of(content, ratios):
    """The split of a content by its hash alone, computed independently."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    scaled = int.from_bytes(digest, "big") * sum(ratios)
    edges = [sum(ratios[: n + 1]) * 2**64 for n in range(3)]
    return next(split for split, edge in zip(SPLITS, edges, strict=True) if scaled < edge)


def fraction_of(content):
    return (int(hashlib.blake2b(content, digest_size=8).hexdigest(), 16) >> 11) / 2**53


def write(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.jpg").write_text(f"{name} {number}")
    return root


def counts_of(images):
    """``{split: {class: number}}``"""
    return {
        split: Counter(images.classes[label] for label in records.labels)
        for split, records in images.splits.items()
    }


@pytest.mark.parametrize("count", [3, 4, 5, 8, 12])
def test_a_small_class_is_in_every_split(tmp_path, count):
    """A class of 5 photos got none in validation and test."""
    small = {f"small{n}": count for n in range(12)}
    images = find_images(write(tmp_path, {"large": 200, **small}))
    for split, counts in counts_of(images).items():
        assert set(counts) == set(images.classes), split
    assert images.missing_classes == ()


def test_large_classes_are_divided_as_ever(tmp_path):
    root = write(tmp_path, {"a": 300, "b": 300, "small": 4})
    for split, records in find_images(root).splits.items():
        for path in records.paths:
            with open(path, "rb") as file:
                content = file.read()
            assert content.startswith(b"small") or split == split_of(content, (8, 1, 1))


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_of_too_few_is_trained_and_named(tmp_path, count):
    names = [f"few{n}" for n in range(9)]
    images = find_images(write(tmp_path, {"large": 200, **dict.fromkeys(names, count)}))
    assert set(counts_of(images)["train"]) == set(images.classes)
    assert sum(counts_of(images)[split][name] for split in SPLITS for name in names) == 9 * count
    for split in ("validation", "test"):
        (sentence,) = [s for s in images.missing_classes if f"no image in {split}" in s]
        assert "it takes 3 different ones" in sentence


def test_validation_out_of_train_has_every_class(tmp_path):
    write(tmp_path / "train", {"large": 100, **{f"small{n}": 3 for n in range(9)}})
    write(tmp_path / "test", {"large": 5})
    counts = counts_of(find_images(tmp_path))
    assert set(counts["train"]) == set(counts["validation"]) and len(counts["train"]) == 10
    assert counts["test"] == {"large": 5}


def test_arrays_are_divided_by_the_same_rule(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(11), [100] + [4] * 10)
    images = rng.integers(0, 256, (len(labels), 4, 4, 3), np.uint8)
    np.savez(tmp_path / "set.npz", image=images, label=labels)
    settings = DataConfig(name="folder", dir=str(tmp_path / "set.npz"))
    dataset = open_dataset(settings, AugmentConfig())
    for split in SPLITS:
        assert set(getattr(dataset, split).labels.tolist()) == set(range(11))


images_of_classes = st.lists(
    st.tuples(st.binary(min_size=1, max_size=2), st.integers(0, 4)), min_size=1, max_size=60
)


@settings(deadline=None, max_examples=300, database=None)
@given(
    images=images_of_classes,
    ratios=st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(0, 3)),
    seed=st.randoms(use_true_random=False),
)
def test_the_rule(images, ratios, seed):
    contents, labels = [c for c, _ in images], [label for _, label in images]
    splits = divide([fraction_of(content) for content in contents], labels, ratios)
    by_content = dict(zip(contents, splits, strict=True))
    wanted = {split for split, ratio in zip(SPLITS, ratios, strict=True) if ratio}
    assert set(splits) <= wanted
    # The same content is in the same split, whatever its class.
    assert [by_content[content] for content in contents] == splits
    # The order of the images does not matter.
    order = list(range(len(images)))
    seed.shuffle(order)
    again = divide([fraction_of(contents[n]) for n in order], [labels[n] for n in order], ratios)
    assert again == [splits[n] for n in order]
    for label in set(labels):
        of_class = {content for content, its in images if its == label}
        shared = {content for content, its in images if its != label} & of_class
        found = {by_content[content] for content in of_class}
        by_hash = {content: split_of(content, ratios) for content in of_class}
        if not shared:
            # A class has an image in train, and in each split if it has enough.
            assert "train" in found
            assert found == wanted or len(of_class) < len(wanted)
        if set(by_hash.values()) == wanted:  # chance gave it some of each: nothing moves
            assert {content: by_content[content] for content in of_class} == by_hash
