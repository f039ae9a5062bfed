"""Runs that strangers started twice: the folder of a run is another's only where they say so."""

import contextlib
import io
import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from tests.tiny_net import TINY_OPTIONS, tiny_model

pytestmark = pytest.mark.usefixtures("no_page")
COMMON = ("--data.batch-size", "16", "--compile-cache", "None", "--epochs", "2")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    model = tiny_model(num_classes=10)
    sample = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(1), sample, train=False))()
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    fr.save_weights(path, variables, model)
    return str(path)


def add_photos(folder, numbers, seed=0):
    """Write photos of one colour and noise, which differ by their number and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rng = np.random.default_rng([seed, number, sum(folder.name.encode())])
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def photos_of(root, *classes, split=True):
    for name in classes:
        if split:
            for part, numbers in (("train", 8), ("val", 3), ("test", 3)):
                add_photos(root / part / name, range(numbers), len(part))
        else:
            add_photos(root / name, range(20))
    return root


def call(*words):
    """Run a command; return its exit code and all that it printed, on one line."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        code = main(list(map(str, words)))
    return code, " ".join((out.getvalue() + err.getvalue()).split())


def snapshot(folder):
    """Contents of all files below a folder, by path."""
    return {
        os.path.relpath(os.path.join(where, name), folder): open(
            os.path.join(where, name), "rb"
        ).read()
        for where, _, names in os.walk(folder)
        for name in names
    }


# How each kind of run is started, after the folder or list of its data.
MODES = {
    "head": ("--mode", "head"),
    "head by steps": ("--mode", "head", "--views", "0"),
    "partial": ("--mode", "partial"),
    "full": ("--mode", "full"),
    "gradual": ("--mode", "gradual"),
}


def finetune(weights, photos, workdir, *options):
    size = ("--image-size", "16", "--weights", weights)
    return call("finetune", photos, "--workdir", workdir, *size, *COMMON, *options)


def train(data, workdir, *options):
    words = (*TINY_OPTIONS, "--max-steps", "2")
    source = ("--data.name", "folder", "--data.dir", data, "--data.image-size", "16")
    return call(
        "train", "--config", "digits", "--workdir", workdir, *source, *words, *COMMON, *options
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    ["head", "full", "head by steps", "partial", "gradual"],
)
def test_a_finished_run_does_not_answer_for_other_photos(tmp_path, weights, mode):
    """``finetune b/photos`` after ``finetune a/photos`` kept the head and took b's classes, so that
    a cat was an ant; a third class ruined the run before it failed."""
    workdir = tmp_path / "run"
    photos = photos_of(tmp_path / "a" / "photos", "cat", "dog")
    assert finetune(weights, photos, workdir, *MODES[mode])[0] == 0
    before = snapshot(workdir)
    assert json.loads(before["classes.json"]) == ["cat", "dog"]

    others = photos_of(tmp_path / "b" / "photos", "ant", "bee")
    three = photos_of(tmp_path / "c" / "photos", "cat", "dog", "fox")
    with_more = shutil.copytree(photos, tmp_path / "d")
    add_photos(with_more / "train" / "cat", range(100, 120))
    expected = {
        others: "the classes were cat, dog and are ant, bee",
        three: "the class fox was added",
        with_more: "20 images were added (train/cat/100.png, train/cat/101.png, train/cat/102.png "
        "and 17 more)",
    }
    for folder, difference in expected.items():
        code, printed = finetune(weights, folder, workdir, *MODES[mode])
        assert code == 1 and difference in printed, printed
        assert "Choose another --workdir, or add --overwrite to delete that run" in printed
        assert snapshot(workdir) == before
    assert finetune(weights, others, workdir, *MODES[mode], "--overwrite")[0] == 0
    assert fr.load(workdir).classes == ("ant", "bee")


def replaced(photos):
    add_photos(photos / "train" / "cat", [0], seed=99)
    return "1 image was changed (train/cat/000.png)"


def removed(photos):
    (photos / "val" / "dog" / "000.png").unlink()
    return "1 image was removed (val/dog/000.png)"


def moved_between_splits(photos):
    shutil.move(photos / "test" / "dog" / "002.png", photos / "test" / "cat" / "902.png")
    shutil.move(photos / "test" / "cat" / "902.png", photos / "test" / "dog" / "002.png")
    shutil.move(photos / "val" / "dog" / "001.png", photos / "train" / "dog" / "901.png")
    return "1 image was added (train/dog/901.png); 1 image was removed (val/dog/001.png)"


@pytest.mark.slow
@pytest.mark.parametrize("change", [moved_between_splits, replaced, removed])
def test_other_files_of_the_same_classes_are_noticed(tmp_path, change):
    photos, workdir = photos_of(tmp_path / "photos", "cat", "dog"), tmp_path / "run"
    assert train(photos, workdir)[0] == 0
    before = snapshot(workdir)
    difference = change(photos)
    code, printed = train(photos, workdir, "--max-steps", "3")
    assert code == 1 and difference in printed, printed
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_labels_of_a_list_that_changed_are_noticed(tmp_path):
    photos = photos_of(tmp_path / "photos", "cat", "dog", split=False)
    lines = [f"{path},{path.parent.name}" for path in sorted(photos.rglob("*.png"))]
    listed = tmp_path / "list.csv"
    listed.write_text("\n".join(["path,label", *lines]))
    assert train(listed, tmp_path / "run")[0] == 0
    lines[0] = lines[0].replace(",cat", ",dog")
    listed.write_text("\n".join(["path,label", *lines]))
    code, printed = train(listed, tmp_path / "run")
    assert code == 1 and "labels or order" in printed, printed


@pytest.mark.slow
def test_another_array_file_of_the_same_name_is_noticed(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "set.npz", image=images, label=labels)
    assert train(tmp_path / "set.npz", tmp_path / "run", "--data.image-size", "8")[0] == 0
    np.savez(tmp_path / "set.npz", image=images, label=(labels + 1) % 3)
    code, printed = train(tmp_path / "set.npz", tmp_path / "run", "--data.image-size", "8")
    assert code == 1 and "the images, labels or order of train are others" in printed, printed


@pytest.mark.slow
def test_a_folder_that_moved_is_the_same_data(tmp_path):
    photos, workdir = photos_of(tmp_path / "photos", "cat", "dog"), tmp_path / "run"
    assert train(photos, workdir)[0] == 0
    elsewhere = shutil.move(photos, tmp_path / "elsewhere")
    code, printed = train(elsewhere, workdir, "--max-steps", "3")
    assert code == 0 and "Resuming from the checkpoint after step 2" in printed


@pytest.mark.slow
def test_photos_may_change_while_nothing_is_trained(tmp_path):
    """A run that stops at a photo it cannot read is started again without that photo."""
    photos, workdir = photos_of(tmp_path / "photos", "cat", "dog"), tmp_path / "run"
    (photos / "train" / "cat" / "000.png").write_bytes(b"<html>")
    assert train(photos, workdir, "--data.on-bad-image", "error")[0] == 1
    (photos / "train" / "cat" / "000.png").unlink()
    assert train(photos, workdir, "--data.on-bad-image", "error")[0] == 0


@pytest.mark.slow
def test_overwriting_deletes_only_what_a_run_writes(tmp_path):
    photos, workdir = photos_of(tmp_path / "photos", "cat", "dog"), tmp_path / "run"
    assert train(photos, workdir)[0] == 0
    (workdir / "notes.txt").write_text("mine")
    code, printed = train(photos, workdir, "--seed", "1", "--overwrite")
    assert code == 0 and "Resuming" not in printed
    assert (workdir / "notes.txt").read_text() == "mine"
    code, printed = train(photos, workdir, "--seed", "1", "--overwrite", "--max-steps", "3")
    assert code == 0 and "Resuming from the checkpoint after step 2" in printed


def train_digits(workdir, *options, epochs=1, schedule="constant"):
    """Train three steps an epoch."""
    words = (*TINY_OPTIONS, "--compile-cache", "None", "--epochs", epochs)
    words += () if "--data.batch-size" in options else ("--data.batch-size", "512")
    words += ("--optimizer.schedule", schedule, "--optimizer.warmup-epochs", "0")
    words += () if "--evaluate-every" in options else ("--evaluate-every", "1")
    return call("train", "--config", "digits", "--workdir", workdir, *words, *options)


def numbers_of(workdir):
    """The history of a run but for its times, which the checksum of a line covers too."""
    lines = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    timed = ("time", "images_per_second", "data_wait", "checksum")
    return [{name: line[name] for name in line if name not in timed} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch, three steps, with a constant learning rate."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert train_digits(workdir)[0] == 0
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--data.workers", "2"),
        ("--save-every", "5"),
        ("--data.on-bad-image", "error"),
        ("--model.remat", "True"),
        ("--parallel.mode", "jit"),
        ("--data.no-download", "--transfer.feature-cache", "elsewhere"),
    ],
    ids=lambda options: options[0],
)
def test_settings_that_change_no_number_may_change(finished, options):
    code, printed = train_digits(finished, *options)
    assert code == 0 and "Resuming from the checkpoint after step 3" in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--seed", "1"), "seed was 0, is now 1"),
        (("--data.batch-size", "256"), "data.batch_size was 512, is now 256"),
        (("--optimizer.learning-rate", "0.01"), "optimizer.learning_rate was"),
        (("--evaluate-every", "2"), "evaluate_every was 1, is now 2"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_settings_that_change_numbers_are_refused(finished, options, difference):
    before = snapshot(finished)
    code, printed = train_digits(finished, *options)
    assert code == 1 and difference in printed and "--overwrite" in printed, printed
    assert snapshot(finished) == before


@pytest.mark.slow
def test_a_constant_schedule_is_extended_with_the_same_numbers(finished, tmp_path):
    """More epochs were refused, though no step that was done depends on them."""
    workdir = shutil.copytree(finished, tmp_path / "extended")
    for folder in (workdir, tmp_path / "at once"):
        assert train_digits(folder, epochs=2)[0] == 0
    assert numbers_of(workdir) == numbers_of(tmp_path / "at once")
    code, printed = train_digits(workdir)
    assert code == 1 and "epochs was 2, is now 1, of which it has done more" in printed


@pytest.mark.slow
def test_a_schedule_that_follows_the_epochs_names_the_way_on(tmp_path):
    workdir = tmp_path / "run"
    assert train_digits(workdir, schedule="cosine")[0] == 0
    code, printed = train_digits(workdir, schedule="cosine", epochs=2)
    assert code == 1 and "epochs was 1, is now 2, which changes steps that are done" in printed
    assert f"train --transfer.weights {workdir}" in printed
    more = ("--transfer.weights", workdir)
    assert train_digits(tmp_path / "more", *more, schedule="cosine", epochs=2)[0] == 0


@pytest.mark.parametrize("form", ["the run", "its file"])
def test_a_run_does_not_overwrite_the_weights_that_it_starts_from(form, weights, tmp_path):
    """``finetune photos --weights runs/photos --overwrite`` deleted the only copy of them."""
    photos, workdir = photos_of(tmp_path / "photos", "cat", "dog"), tmp_path / "run"
    assert main(["convert", weights, str(workdir)]) == 0
    start = workdir if form == "the run" else workdir / "model.safetensors"
    before = snapshot(workdir)
    for options in ((), ("--overwrite",)):
        code, printed = finetune(start, photos, workdir, *options)
        assert code == 1 and "holds the weights that this run starts from" in printed, printed
        assert "choose another --workdir" in printed and "--overwrite" not in printed
        assert snapshot(workdir) == before


def test_the_way_on_is_open_in_python_too(tmp_path):
    """The message names --overwrite; ``fr.finetune`` takes the options of the command."""
    photos = photos_of(tmp_path / "photos", "cat", "dog")
    options = {"model": "resnet8", "weights": "none", "image_size": 16}
    assert fr.finetune_config(photos, **options, overwrite=True).overwrite
    assert not fr.finetune_config(photos, **options).overwrite


@pytest.mark.parametrize("mode", ["head", pytest.param("full", marks=pytest.mark.slow)])
def test_starting_weights_that_changed_are_noticed(tmp_path, weights, mode):
    """A head was scored on the features of weights that it does not stand on."""
    photos, workdir = photos_of(tmp_path / "photos", "cat", "dog"), tmp_path / "run"
    start = tmp_path / "start.safetensors"
    shutil.copy(weights, start)
    assert finetune(start, photos, workdir, *MODES[mode])[0] == 0
    before = snapshot(workdir)
    model = tiny_model(num_classes=10)
    variables = jax.tree.map(lambda leaf: leaf * 1.5, fr.load_weights(start, model))
    fr.save_weights(start, variables, model)
    code, printed = finetune(start, photos, workdir, *MODES[mode])
    assert code == 1 and f"{start} held other weights when it started" in printed, printed
    assert snapshot(workdir) == before
