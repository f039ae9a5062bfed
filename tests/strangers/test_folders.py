"""Folders of photos as strangers have them: layouts, and files that cannot be used."""

import dataclasses
import importlib.util
import io
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import eval_batches, open_dataset
from flax_resnet.data.audit import check_folder
from flax_resnet.data.images import find_images
from flax_resnet.data.tfds import imagenet_synsets
from flax_resnet.inference.find_files import find_files
from flax_resnet.weights import imagenet_classes


def write(root, *names):
    """Write a picture of its own for each name; a name that ends in a slash is an empty folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(list(os.fsencode(name))).integers(
            0, 256, (9, 9, 3), np.uint8
        )
        Image.fromarray(pixels).save(path, "PNG")
    return root


def in_classes(folder, classes=("cat", "dog"), count=1):
    return [f"{folder}/{name}/{n}.png" for name in classes for n in range(count)]


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


# --- Folders matched to the classes of a model -------------------------


WNIDS = ("n01440764", "n01443537", "n01484850")  # tench, goldfish, great white shark


@pytest.fixture(scope="module")
def imagenet_model(tmp_path_factory):
    """``imagenet_model(classes)``: a model of 1,000 classes with these names."""
    model = fr.create_model("resnet8", num_classes=1000)
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    fr.save_weights(path, variables, model)
    classifier = fr.load(path)

    def named(classes):
        info = dataclasses.replace(classifier.info, classes=tuple(classes))
        return dataclasses.replace(classifier, info=info)

    return named


def as_transformers_has_them():
    """transformers has all synonyms of a class."""
    return [f"{name}, synonym" for name in imagenet_classes()]


def numbers():
    return [str(number) for number in range(1000)]


def labels_of(classifier, root):
    """Return the label of each class folder by an evaluation, and its notes."""
    done = classifier.evaluate(root)
    folders = [Path(name).parent.name for name in done.predictions.names]
    return dict(zip(folders, done.labels.tolist(), strict=True)), done.notes


@pytest.mark.parametrize("classes", [imagenet_classes, as_transformers_has_them, numbers])
@pytest.mark.parametrize(
    ("folders", "expected", "naming"),
    [
        (WNIDS, (0, 1, 2), "WordNet IDs"),
        (("n02504458", "n15075141", "n01440764"), (386, 999, 0), "WordNet IDs"),
        (("0", "1", "10", "100", "2"), (0, 1, 10, 100, 2), "numbers"),
        (("000", "007", "999"), (0, 7, 999), "numbers"),
    ],
)
def test_folders_of_imagenet_are_matched_by_id_or_number(
    imagenet_model, tmp_path, classes, folders, expected, naming
):
    """They were refused; by their order, ``10`` would have been class 2."""
    write(tmp_path, *in_classes(".", folders))
    labels, notes = labels_of(imagenet_model(classes()), tmp_path)
    assert labels == dict(zip(folders, expected, strict=True))
    if not (naming == "numbers" and classes is numbers and folders[0] == "0"):
        assert any(f"matched by the {naming}" in note for note in notes)


def test_every_wordnet_id_has_the_label_of_timm():
    """timm's list, of the same order as torchvision's classes; it is not imported."""
    timm = importlib.util.find_spec("timm")
    if timm is None:
        pytest.skip("timm is not installed")
    path = Path(timm.origin).parent / "data/_info/imagenet_synsets.txt"
    assert list(imagenet_synsets()) == path.read_text().split()


def test_the_imagenet_classes_are_those_of_its_wordnet_ids():
    """A few, by WordNet itself."""
    names = dict(zip(imagenet_synsets(), imagenet_classes(), strict=True))
    assert len(names) == 1000
    known = {"n01440764": "tench", "n02123045": "tabby", "n07753592": "banana"}
    known |= {"n15075141": "toilet tissue", "n02504458": "African elephant"}
    assert known.items() <= names.items()


@pytest.mark.parametrize(
    ("folders", "sentences"),
    [
        (("1", "2", "3"), ("count from 0", "class 0 (tench)", "class 1 (goldfish)")),
        (
            ("n01440764", "1"),
            ("n01440764 is one of their WordNet IDs", "1 is one of their numbers"),
        ),
        (("tench", "n01443537"), ("names", "WordNet IDs")),
        (("1", "01"), ("not among those expected",)),
        (("1000", "0"), ("not among those expected: 0, 1000",)),
        (("n00000000", "n01440764"), ("not among those expected",)),
    ],
)
def test_folders_with_two_readings_are_not_matched(imagenet_model, tmp_path, folders, sentences):
    write(tmp_path, *in_classes(".", folders))
    with pytest.raises(fr.UserError) as caught:
        imagenet_model(imagenet_classes()).evaluate(tmp_path)
    assert all(sentence in str(caught.value) for sentence in sentences), str(caught.value)


def test_labels_of_a_list_may_be_wordnet_ids(imagenet_model, tmp_path):
    write(tmp_path, "1.png", "2.png")
    (tmp_path / "list.csv").write_text("path,label\n1.png,n01484850\n2.png,n01440764\n")
    done = imagenet_model(imagenet_classes()).evaluate(tmp_path / "list.csv")
    assert done.labels.tolist() == [2, 0]


def test_a_name_of_two_classes_is_refused(imagenet_model, tmp_path):
    """Some lists of ImageNet's names have two cranes: the bird and the machine."""
    classes = ["crane" if "crane" in name else name for name in imagenet_classes()]
    write(tmp_path, *in_classes(".", ("crane", "tench")))
    with pytest.raises(fr.UserError, match="crane may be any of the classes 134, 517"):
        imagenet_model(classes).evaluate(tmp_path)


def test_names_of_the_own_classes_come_before_numbers(imagenet_model, tmp_path):
    """A run on folders ``0`` to ``999`` has sorted them by name: ``10`` is its class 2."""
    classes = sorted(numbers())
    write(tmp_path, *in_classes(".", ("0", "10", "2")))
    labels, notes = labels_of(imagenet_model(classes), tmp_path)
    assert labels == {name: classes.index(name) for name in ("0", "10", "2")}
    assert notes == ()


def test_numbers_do_not_name_the_classes_of_a_model_with_other_names(imagenet_model, tmp_path):
    write(tmp_path, *in_classes(".", ("0", "1")))
    with pytest.raises(fr.UserError, match="not among those expected"):
        imagenet_model(f"kind {n}" for n in range(1000)).evaluate(tmp_path)


def test_a_test_split_needs_no_train_in_evaluation(imagenet_model, tmp_path):
    write(tmp_path, *in_classes("val", WNIDS), *in_classes("test", WNIDS[:2]))
    labels, _ = labels_of(imagenet_model(imagenet_classes()), tmp_path)
    assert labels == {"n01440764": 0, "n01443537": 1}


# --- Files that cannot be read ----------------------------------------------


def spoil(path, how):
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "dangling link":
        path.symlink_to("nowhere")
    elif how == "link to itself":
        path.symlink_to(path.name)
    elif how == "I/O error":  # reading it fails with EIO, for root too
        path.symlink_to("/proc/self/mem")


FAULTS = ["pipe", "folder", "dangling link", "link to itself", "I/O error"]


@pytest.mark.parametrize("how", FAULTS)
def test_check_names_a_file_that_cannot_be_read(tmp_path, capsys, how):
    """An I/O error stopped it."""
    root = write(tmp_path, *in_classes(".", count=6))
    spoil(root / "cat" / "3.png", how)
    assert main(["check", str(root)]) == 0
    assert "cat/3.png" in capsys.readouterr().out
    report = check_folder(root)
    named = {*report.unreadable, *report.left_out}
    assert named == {str(root / "cat" / "3.png")}


@pytest.mark.parametrize("how", FAULTS)
def test_predict_names_a_file_that_cannot_be_read(imagenet_model, tmp_path, capsys, how):
    root = write(tmp_path, *in_classes(".", count=2))
    spoil(root / "cat" / "1.png", how)
    files = find_files([root])
    done = imagenet_model(numbers()).predict(files.paths)
    assert {*files.missing, *done.failed} == {str(root / "cat" / "1.png")}
    assert np.isfinite(done.probabilities[[n not in done.failed for n in done.names]]).all()
    single = imagenet_model(numbers()).predict([root / "cat" / "1.png"])
    assert list(single.failed) == [str(root / "cat" / "1.png")]


def test_a_file_that_vanishes_after_it_was_found_is_left_out(imagenet_model, tmp_path):
    root = write(tmp_path, *in_classes(".", ("n01440764", "n01443537"), count=2))
    (root / "n01440764" / "0.png").unlink()
    paths = [root / "n01440764" / "0.png", root / "n01440764" / "1.png"]
    done = imagenet_model(numbers()).predict(paths)
    assert list(done.failed) == [str(paths[0])]


@pytest.mark.parametrize("how", FAULTS)
def test_a_split_is_read_in_spite_of_a_file_that_cannot_be(tmp_path, how):
    """An I/O error stopped the division into splits, whatever the policy."""
    root = write(tmp_path, *in_classes(".", count=12))
    spoil(root / "cat" / "3.png", how)
    settings = DataConfig(name="folder", dir=str(root), image_size=8)
    dataset = open_dataset(settings, AugmentConfig())
    labels = []
    for split in (dataset.train, dataset.validation, dataset.test):
        for batch in eval_batches(split, batch_size=4):
            labels += batch["label"][batch["mask"]].tolist()
    assert sorted(labels) == [0] * 11 + [1] * 12
    strict = open_dataset(dataclasses.replace(settings, on_bad_image="error"), AugmentConfig())
    if how == "I/O error":  # all others are no files, and left out when files are found
        assert list(dataset.bad) == [str(root / "cat" / "3.png")]
        with pytest.raises(fr.UserError, match="Input/output error"):
            list(eval_batches(strict.train, batch_size=4))
    else:
        list(eval_batches(strict.train, batch_size=4))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "error"])
def test_training_goes_on_or_stops_at_an_unreadable_file(tmp_path, capsys, policy):
    root = write(tmp_path / "photos", *in_classes(".", count=12))
    spoil(root / "cat" / "3.png", "I/O error")
    arguments = ["train", "--config", "digits", "--model.name", "resnet8", "--data.name", "folder"]
    arguments += ["--data.dir", str(root), "--data.image-size", "16", "--data.batch-size", "8"]
    arguments += ["--epochs", "1", "--compile-cache", "None", "--data.on-bad-image", policy]
    arguments += ["--augment.crop-padding", "0", "--workdir", str(tmp_path / "run")]
    assert main(arguments) == (policy == "error")
    shown = capsys.readouterr()
    text = " ".join((shown.out + shown.err).split())
    assert "cat/3.png" in text.replace(" ", "") and "Input/output error" in text
