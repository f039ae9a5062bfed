"""Folders of photos as strangers have them: which folders are classes and which are splits."""

import io
import os
import shutil
from pathlib import Path

import pytest

from flax_resnet.cli import main
from flax_resnet.data.images import find_images
from flax_resnet.inference.find_files import find_files
from tests.strangers.pictures import in_classes, write


def found(root, **options):
    """Return the split and the class of each path below the root, as found."""
    images = find_images(root, **options)
    return {
        os.path.relpath(path, root): (split, images.classes[label])
        for split, records in images.splits.items()
        for path, label in zip(records.paths, records.labels, strict=True)
    }


def by_folders(root, splits):
    """Return the same, where the last folder of a path is the class and ``splits`` has the rest."""
    expected = {}
    for path in sorted(root.rglob("*.png")):
        relative = path.relative_to(root)
        above = str(relative.parent.parent)
        if above in splits:
            expected[str(relative)] = (splits[above], relative.parent.name)
    return expected


def refused(root, capsys):
    """Return the sentence with which ``check`` refuses a folder."""
    assert main(["check", str(root)]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.startswith("error: ") and "Traceback" not in shown
    return shown


# --- Splits under other names ----------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Validation", "Testing"),
        ("TRAIN", "VAL", "TEST"),
        ("train", "dev", "eval"),
        ("training_set", "valid_set", "test_set"),
        ("train_data", "validation data", "Test-Data"),
        ("TrainImages", "ValImages", "TestImages"),
        ("trainset", "valset", "testset"),
        ("train2017", "val2017", "test2017"),
        ("seg_train", "seg_val", "seg_test"),
        ("asl_alphabet_train", "asl_alphabet_valid", "asl_alphabet_test"),
    ],
)
def test_split_folders_under_other_names_are_splits(tmp_path, names):
    """``Training`` and ``Testing`` became two classes, with an accuracy of 0%."""
    write(tmp_path, *(path for name in names for path in in_classes(name)))
    splits = dict(zip(names, ("train", "validation", "test"), strict=True))
    assert found(tmp_path) == by_folders(tmp_path, splits)
    images = find_images(tmp_path)
    assert images.given_splits == ("train", "validation", "test")
    named = " ".join(images.notes)
    own = ("train", "val", "validation", "test")
    assert all(f"{name} is used as" in named for name in names if name.lower() not in own)


@pytest.mark.parametrize(
    ("names", "readings"),
    [
        # Folders of no known name that hold the same classes.
        ([*in_classes("A"), *in_classes("B")], ("A and B (cat, dog)", "splits", "classes")),
        ([*in_classes("fold1"), *in_classes("fold2")], ("fold1 and fold2", "splits", "classes")),
        # A split next to a folder that may be another, a copy or a class.
        ([*in_classes("train"), *in_classes("more")], ("train", "(more)", "the same folders (cat")),
        ([*in_classes("Training"), *in_classes("rest")], ("Training", "(rest)", "split", "class")),
        ([*in_classes("test"), *in_classes("control")], ("test", "(control)", "split", "class")),
        ([*in_classes("train", ("steam", "diesel")), "car/1.png"], ("train is a split", "a class")),
        # Splits whose images are in no class folders.
        (["train/1.png", "test/2.png"], ("train", "test", "if these are splits", "classes")),
        (["train/1.png", "test/2.png", "bus/3.png"], ("if these are splits", "they are classes")),
        # A copy of the folder inside of it, as in one set of flowers that many use.
        (
            [*in_classes("."), *in_classes("photos")],
            ("photos has folders of the same names", "cat"),
        ),
        # Two folders for one split.
        ([*in_classes("train"), *in_classes("Training")], ("two folders for train",)),
        (
            [*in_classes("train"), *in_classes("test"), *in_classes("eval")],
            ("two folders for test",),
        ),
    ],
)
def test_folders_with_two_readings_are_refused_with_both(tmp_path, capsys, names, readings):
    shown = refused(write(tmp_path, *names), capsys)
    assert all(reading in shown for reading in readings), shown


def test_a_message_may_name_what_is_not_utf8(tmp_path, capsys):
    """Where standard error was strict, the message was lost in a traceback."""
    names = [os.fsdecode(name) for name in (b"caf\xe9", b"th\xe9")]
    for folder in "ab":
        write(tmp_path, *(f"{folder}/{name}/1.png" for name in names))
    assert r"caf\udce9, th\udce9" in refused(tmp_path, capsys)


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("test", "trial"),
        ("valid", "invalid"),
        ("test_tube", "test_paper"),
        ("Dog training", "sleep"),
        ("train station", "bus station"),
    ],
)
def test_classes_with_the_name_of_a_split_are_classes(tmp_path, classes):
    write(tmp_path, *in_classes(".", classes, 3))
    assert {name for _, name in found(tmp_path).values()} == set(classes)


def test_folders_inside_of_classes_are_of_no_concern(tmp_path):
    write(tmp_path, "cat/2023/1.png", "cat/2024/2.png", "dog/indoors/3.png", "dog/4.png")
    assert {name for _, name in found(tmp_path).values()} == {"cat", "dog"}


# --- Layouts of Kaggle and of archives ------------------------------------


@pytest.mark.parametrize("test", ["test/1.png", "test/test/1.png", "test/unknown/1.png"])
@pytest.mark.parametrize("validation", [True, False])
def test_a_test_folder_without_labels_is_left_out_with_a_note(tmp_path, test, validation):
    """It stopped everything."""
    names = [*in_classes("train", count=20), test, "sample_submission.csv"]
    names += in_classes("val") if validation else []
    images = find_images(write(tmp_path, *names))
    assert list(images.left_out) == [str(tmp_path / test)]
    assert any("have no labels and are left out" in note for note in images.notes)
    assert str(tmp_path / test) not in {p for r in images.splits.values() for p in r.paths}
    assert len(images.validation) and sum(map(len, images.splits.values())) == 40 + 2 * validation


@pytest.mark.parametrize(
    ("inner", "splits"),
    [
        ("dup", {"dup/train": "train", "dup/val": "validation"}),
        ("dup/dup", {"dup/dup/train": "train", "dup/dup/val": "validation"}),
        ("other", {"other/train": "train", "other/val": "validation"}),
        ("archive/Images", {f"archive/Images/{s}": n for s, n in (("train", "train"),)}),
    ],
)
def test_a_root_that_is_nested_once_more_is_used_with_a_note(tmp_path, inner, splits):
    """Zip files often hold a folder of their own name: ``dup/dup/train``."""
    names = [name for split in splits for name in in_classes(split, count=20)]
    root = write(tmp_path / "dup", *names, "__MACOSX/dup/._1.png", ".DS_Store", "README.png")
    images = find_images(root)
    assert any(str(root / inner) in note and "is used instead" in note for note in images.notes)
    assert sum(map(len, images.splits.values())) == 40 * len(splits)
    if len(splits) > 1:
        assert found(root) == by_folders(root, splits)
    assert list(images.left_out) == [str(root / "README.png")]


@pytest.mark.parametrize("where", ["training_set/training_set", "train/images", "Train/train"])
def test_a_split_that_is_nested_once_more_is_used(tmp_path, where):
    root = write(tmp_path, *in_classes(where), *in_classes("test/test"))
    expected = by_folders(root, {where: "train", "test/test": "test"})
    assert found(root, ratios=(1, 0, 0)) == expected


def test_a_class_of_a_neutral_name_stays_a_class(tmp_path):
    splits = {"train": "train", "test": "test"}
    names = [*in_classes("train", ("images", "drawings")), *in_classes("test", ("images",))]
    assert found(write(tmp_path, *names), ratios=(1, 0, 0)) == by_folders(tmp_path, splits)


def test_an_inner_folder_that_may_be_meant_is_named(tmp_path, capsys):
    root = write(tmp_path / "zip", *in_classes("cats"), "._x.png")
    shown = refused(root, capsys)
    assert "one class only, 'cats'" in shown and f"name {root / 'cats'}" in shown


def test_files_of_systems_are_no_images(tmp_path):
    """Synology keeps thumbnails with an image's name next to the photos."""
    names = ("cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "cat/._1.png", "__MACOSX/cat/1.png")
    root = write(tmp_path, *in_classes("."), *names)
    for name in ("Thumbs.db", "cat/Thumbs.db", "cat/desktop.ini", "dog/.DS_Store"):
        (root / name).write_bytes(b"")
    images = find_images(root)
    assert (sum(map(len, images.splits.values())), images.notes) == (2, ())
    assert images.left_out == {}


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz"])
def test_an_archive_is_to_be_unpacked(tmp_path, capsys, name):
    write(tmp_path / "in", *in_classes("."))
    stem, _, form = name.partition(".")
    archive = shutil.make_archive(
        tmp_path / stem, {"zip": "zip", "tar.gz": "gztar"}[form], tmp_path / "in"
    )
    assert "is an archive: unpack it" in refused(Path(archive), capsys)


@pytest.mark.parametrize("between", ["\n", "\r\n", "\0"])
def test_a_list_on_stdin_may_have_names_of_any_bytes(tmp_path, between):
    """Lines ended at characters such as U+2028, and other bytes than UTF-8 were an error."""
    names = [b" a .png", b"\xe9.png", "a\u2028b.png".encode(), b"a\x0cb.png", b"-x.png"]
    names += [b"a\nb.png", b"a\rb.png"] if between == "\0" else []
    paths = [os.fsencode(tmp_path) + b"/" + name for name in names]
    for path in paths:
        with open(path, "wb"):
            pass
    text = between.encode().join([*paths, b""])
    stdin = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8", errors="strict")
    assert [os.fsencode(path) for path in find_files(["-"], stdin).paths] == paths
