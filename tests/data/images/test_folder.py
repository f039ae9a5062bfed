"""Image folders: accepted layouts, ignored files, and refused folders."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.data.images import Records, SplitRecords, content_fraction, find_images
from flax_resnet.data.images.splits import split_at
from flax_resnet.errors import UserError


def write(root: Path, *names: str) -> Path:
    """Write files whose content is their name, because finding images does not decode them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def found(records: Records, root: Path) -> list[tuple[str, int]]:
    """Return (path relative to the root, label) of every image of a split."""
    paths = [Path(path).relative_to(root).as_posix() for path in records.paths]
    return list(zip(paths, records.labels.tolist(), strict=True))


def all_of(images: SplitRecords, root: Path) -> list[tuple[str, int]]:
    return sorted(pair for split in images.splits.values() for pair in found(split, root))


def splits_of_paths(images: SplitRecords) -> dict[str, str]:
    """Return the split of every path."""
    return {path: split for split, records in images.splits.items() for path in records.paths}


def message_of(root: Path, **options) -> str:
    """Return the message with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        find_images(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Layouts -----------------------------------------------------------------


def test_a_folder_for_each_class(tmp_path):
    names = ("dog/b.PNG", "dog/a.jpg", "cat/1.jpeg", "cat/deep/er/2.webp", "cat/3.gif", "cat/4.bmp")
    images = find_images(write(tmp_path, *names), ratios=(1, 0, 0))
    assert images.classes == ("cat", "dog")
    expected = sorted((name, int(name.startswith("dog"))) for name in names)
    assert found(images.train, tmp_path) == expected
    assert images.train.labels.dtype == np.int32
    assert images.notes == ()
    assert (len(images.validation), len(images.test)) == (0, 0)


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_folders_of_splits(tmp_path, validation):
    write(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{validation}/b/3.jpg", "test/a/4.jpg")
    images = find_images(tmp_path)
    assert images.classes == ("a", "b")
    assert found(images.train, tmp_path) == [("train/a/1.jpg", 0), ("train/b/2.jpg", 1)]
    assert found(images.validation, tmp_path) == [(f"{validation}/b/3.jpg", 1)]
    assert found(images.test, tmp_path) == [("test/a/4.jpg", 0)]


def test_validation_is_taken_out_of_train_where_only_test_has_a_folder(tmp_path):
    write(tmp_path, *(f"train/{c}/{n}.jpg" for c in "ab" for n in range(40)), "test/a/0.jpg")
    images = find_images(tmp_path, ratios=(3, 1, 0))
    assert len(images.train) + len(images.validation) == 80
    assert (
        8 <= len(images.validation) <= 34
    )  # 20 expected; six standard deviations in both directions
    assert len(images.test) == 1
    assert any("no validation images" in note for note in images.notes)


def test_train_alone_is_split_like_a_folder_without_splits(tmp_path):
    write(tmp_path, *(f"train/{c}/{n}.jpg" for c in "ab" for n in range(30)))
    images = find_images(tmp_path)
    assert len(all_of(images, tmp_path)) == 60 and len(images.validation) and len(images.test)


def test_a_class_may_be_called_test(tmp_path):
    images = find_images(write(tmp_path, "test/1.jpg", "trial/2.jpg"), ratios=(1, 0, 0))
    assert images.classes == ("test", "trial")


def test_the_order_of_the_classes_can_be_given(tmp_path):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    images = find_images(tmp_path, ratios=(1, 0, 0), classes=("b", "c", "a"))
    assert images.classes == ("b", "c", "a")
    assert sorted(found(images.train, tmp_path)) == [("a/1.jpg", 2), ("b/2.jpg", 0)]
    assert any("1 class has no image in train (c)" in note for note in images.missing_classes)


# --- Splits by content ----------------------------------------------------


@settings(deadline=None, max_examples=30, database=None)
@given(st.sets(st.binary(min_size=1, max_size=8), min_size=1, max_size=30), st.data())
def test_added_files_do_not_move_old_ones(contents, data):
    ratios = data.draw(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)))
    splits = {content: split_at(content_fraction(content), ratios) for content in contents}
    for split, ratio in zip(("train", "validation", "test"), ratios, strict=True):
        assert ratio > 0 or split not in splits.values()


def test_a_folder_that_grows_keeps_its_splits(tmp_path):
    write(tmp_path, *(f"{c}/{n}.jpg" for c in "ab" for n in range(50)))
    before = {
        path: split
        for split, records in find_images(tmp_path).splits.items()
        for path in records.paths
    }
    write(tmp_path, *(f"{c}/new{n}.jpg" for c in "abc" for n in range(50)))
    (tmp_path / "a" / "7.jpg").rename(tmp_path / "a" / "renamed.jpg")
    after = {
        path: split
        for split, records in find_images(tmp_path).splits.items()
        for path in records.paths
    }
    moved = str(tmp_path / "a" / "7.jpg")
    assert after[str(tmp_path / "a" / "renamed.jpg")] == before.pop(moved)
    assert all(after[path] == split for path, split in before.items())


def test_each_class_is_split_in_the_ratios(tmp_path):
    write(tmp_path, *(f"{c}/{n}.jpg" for c in "ab" for n in range(400)))
    images = find_images(tmp_path, ratios=(8, 1, 1))
    for label in range(2):
        counts = [np.count_nonzero(split.labels == label) for split in images.splits.values()]
        # Binomial: six standard deviations of 400 draws.
        assert np.abs(np.array(counts) - (320, 40, 40)).max() <= 6 * np.sqrt(400 * 0.8 * 0.2)
        assert sum(counts) == 400


def test_equal_files_are_in_the_same_split(tmp_path):
    for number in range(40):
        write(tmp_path, f"a/{number}.jpg", f"b/{number}.jpg")
        shutil.copy(tmp_path / f"a/{number}.jpg", tmp_path / f"a/copy of {number}.jpg")
    images = find_images(tmp_path)
    split_of = {path: split for split, records in images.splits.items() for path in records.paths}
    for number in range(40):
        assert (
            split_of[f"{tmp_path}/a/{number}.jpg"] == split_of[f"{tmp_path}/a/copy of {number}.jpg"]
        )


# --- Ignored files and their notes -------------------------------------------


def assert_noted(root: Path, sentence: str, *names: str) -> None:
    images = find_images(root, ratios=(1, 0, 0))
    (note,) = [note for note in images.notes if sentence in note]
    assert str(root) in note and all(name in note for name in names), note
    assert all_of(images, root) == [("a/1.jpg", 0), ("b/2.jpg", 1)]


@pytest.fixture
def two(tmp_path):
    """Two classes of one image."""
    return write(tmp_path / "two", "a/1.jpg", "b/2.jpg")


def test_an_empty_class_folder_is_left_out_and_named(two):
    (two / "empty").mkdir()
    write(two, "papers/read.txt")
    assert_noted(two, "folders without images are left out", "empty", "papers")


def test_a_file_next_to_the_class_folders_is_named(two):
    write(two, "lone.jpg", "notes.txt")
    assert_noted(two, "files next to the class folders are ignored", "lone.jpg", "notes.txt")


def test_files_with_other_extensions_are_named(two):
    write(two, "a/labels.csv", "b/film.mp4")
    assert_noted(
        two, "files without an image's extension are ignored", "a/labels.csv", "b/film.mp4"
    )


def test_hidden_files_and_files_of_macos_are_not_mentioned(two):
    write(two, ".DS_Store", "a/._1.jpg", "__MACOSX/a/1.jpg", ".cache/a/1.jpg")
    images = find_images(two, ratios=(1, 0, 0))
    assert images.notes == ()
    assert all_of(images, two) == [("a/1.jpg", 0), ("b/2.jpg", 1)]


@pytest.mark.parametrize("target", [".", "..", "../../two/a", "../b/round"])
def test_links_in_a_circle_end(two, target):
    """Links to its own folder, to the root, to itself by another path, and through a class."""
    (two / "a" / "round").symlink_to(target)
    (two / "b" / "round").symlink_to("../a/round")
    images = find_images(two, ratios=(1, 0, 0))
    assert images.notes and all("link" in note for note in images.notes)
    assert ("a/1.jpg", 0) in all_of(images, two) and len(all_of(images, two)) < 9


def test_links_to_folders_elsewhere_are_followed(two, tmp_path):
    write(tmp_path / "elsewhere", "3.jpg", "in/4.jpg")
    (two / "c").symlink_to(tmp_path / "elsewhere")
    images = find_images(two, ratios=(1, 0, 0))
    assert images.classes == ("a", "b", "c")
    assert [name for name, label in all_of(images, two) if label == 2] == ["c/3.jpg", "c/in/4.jpg"]


def test_broken_links_are_named(two):
    (two / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    assert_noted(two, "broken links, pipes and other special files are ignored", "a/gone.jpg")


def test_a_pipe_named_like_an_image_is_not_waited_for(two):
    os.mkfifo(two / "a" / "pipe.jpg")
    assert_noted(two, "broken links, pipes and other special files are ignored", "a/pipe.jpg")


def test_a_class_that_validation_lacks_is_named(tmp_path):
    write(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg")
    (note,) = find_images(tmp_path).missing_classes
    assert "1 class has no image in validation (b)" in note


def test_folders_without_images_next_to_the_splits_are_named(tmp_path):
    write(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "docs/x.txt")
    (note,) = find_images(tmp_path).notes
    assert "next to the splits are ignored (docs)" in note


# --- Refused input ---------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((), "has no images: put the images of each class into a folder of its name"),
        (("1.jpg", "2.jpg"), "has images but no class folders: put the images of each class"),
        (("a/readme.txt",), "no images in its folders (a)"),
        (("a/1.jpg", "a/2.jpg"), "has one class only, 'a'"),
        (("train/a/1.jpg", "val/b/1.jpg"), "has 1 class that is not among those of train"),
        (("val/a/1.jpg", "test/a/1.jpg"), "has test and val but no train"),
        (("train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"), "has two folders for validation"),
        (("train/a/1.jpg", "val/a/1.jpg", "more/a/1.jpg"), "other folders with images (more)"),
        (("train/a/1.jpg", "train/b/1.jpg", "val/x.txt"), "val has no images"),
    ],
)
def test_other_layouts_are_refused(tmp_path, names, sentence):
    message = message_of(write(tmp_path, *names))
    assert sentence in message and str(tmp_path) in message


def test_classes_that_differ_between_splits_are_named_with_both_folders(tmp_path):
    message = message_of(write(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "val/Cat/1.jpg"))
    assert all(text in message for text in (str(tmp_path / "val"), str(tmp_path / "train"), "Cat"))
    assert "rename or remove" in message


def test_a_class_that_is_not_expected_is_refused(two):
    assert "not among those expected: b" in message_of(two, classes=("a", "c"))


@pytest.mark.parametrize("ratios", [(0, 1, 1), (8, -1, 1), (8, 1), (float("nan"), 1, 1)])
def test_invalid_ratios_are_refused(two, ratios):
    assert "give the proportions of train, validation and test" in message_of(two, ratios=ratios)


def test_a_source_that_is_neither_a_folder_nor_a_list(tmp_path):
    write(tmp_path, "photo.jpg")
    assert "neither a folder nor a list (.csv, .tsv, .jsonl)" in message_of(tmp_path / "photo.jpg")
    assert "does not exist" in message_of(tmp_path / "absent")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(two):
    (two / "a").chmod(0)
    try:
        assert str(two / "a") in message_of(two) and "cannot be read" in message_of(two)
    finally:
        (two / "a").chmod(0o700)
