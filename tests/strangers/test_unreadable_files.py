"""Files among photos that cannot be read: they are left out and named, and nothing waits."""

import dataclasses
import os

import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import eval_batches, open_dataset
from flax_resnet.data.audit import check_folder
from flax_resnet.inference.find_files import find_files
from tests.strangers.pictures import in_classes, write
from tests.tiny_net import TINY_OPTIONS


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
def test_predict_names_a_file_that_cannot_be_read(classifier, tmp_path, capsys, how):
    root = write(tmp_path, *in_classes(".", count=2))
    spoil(root / "cat" / "1.png", how)
    files = find_files([root])
    done = classifier().predict(files.paths)
    assert {*files.missing, *done.failed} == {str(root / "cat" / "1.png")}
    assert np.isfinite(done.probabilities[[n not in done.failed for n in done.names]]).all()
    single = classifier().predict([root / "cat" / "1.png"])
    assert list(single.failed) == [str(root / "cat" / "1.png")]


def test_a_file_that_vanishes_after_it_was_found_is_left_out(classifier, tmp_path):
    root = write(tmp_path, *in_classes(".", ("n01440764", "n01443537"), count=2))
    (root / "n01440764" / "0.png").unlink()
    paths = [root / "n01440764" / "0.png", root / "n01440764" / "1.png"]
    done = classifier().predict(paths)
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
    arguments = ["train", "--config", "digits", *TINY_OPTIONS, "--data.name", "folder"]
    arguments += ["--data.dir", str(root), "--data.image-size", "16", "--data.batch-size", "8"]
    arguments += ["--epochs", "1", "--compile-cache", "None", "--data.on-bad-image", policy]
    arguments += ["--augment.crop-padding", "0", "--workdir", str(tmp_path / "run")]
    assert main(arguments) == (policy == "error")
    shown = capsys.readouterr()
    text = " ".join((shown.out + shown.err).split())
    assert "cat/3.png" in text.replace(" ", "") and "Input/output error" in text
