"""A run's folder: what is written is read, and weights that are stale or damaged are not."""

import json
import shutil

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.errors import UserError
from flax_resnet.training import Checkpoints
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import (
    RUN_WEIGHTS,
    load_source,
    read_weights,
    write_description,
    write_run_weights,
)

from .conftest import seeded_state_dict, torch_shapes

MODEL = fr.create_model("resnet8", num_classes=2)


def variables(offset=0.0):
    tree = fr.from_torchvision(seeded_state_dict(torch_shapes(MODEL)), MODEL)
    return jax.tree.map(lambda leaf: leaf + np.float32(offset), tree)


@pytest.fixture
def run(tmp_path):
    """A run's folder without weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    settings = {"model.name": "resnet8", "epochs": 3, "loss": "softmax"}
    (folder / "config.json").write_text(json.dumps(settings))
    write_description(folder, ("a", "b"), EvalTransform.stored_like((32, 32, 3)))
    return folder


def save_checkpoint(folder, step, tree, score=None):
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(step, {"state": tree}, score)
    checkpoints.close()


def held(folder):
    loaded = load_source(folder)
    return loaded.info.step, loaded.create()[1]


def equal(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), one, other))


def test_the_description_is_read_as_it_was_written(run):
    transform = EvalTransform(28, 28, 32, "bicubic", 1, (0.5,), (0.25,), model_size=16)
    write_description(run, ("a", "b"), transform)
    write_run_weights(run, variables(), MODEL, step=2, last_step=3)
    info = load_source(run).info
    assert (info.transform, info.classes, info.step) == (transform, ("a", "b"), 2)
    assert (info.kind, info.path, info.settings["epochs"]) == ("run", run, 3)
    assert json.loads((run / "class_indices.json").read_text()) == {"0": "a", "1": "b"}


def test_the_file_of_weights_alone_predicts_as_the_run_does(run, tmp_path):
    """It once had no classes and the transform of ImageNet."""
    transform = EvalTransform(8, 8, 9, "bicubic", 3, (0.1, 0.2, 0.3), (0.25,) * 3)
    write_description(run, ("a", "b"), transform)
    path = write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    alone = tmp_path / "elsewhere.safetensors"
    shutil.copyfile(path, alone)
    for file in (path, alone):
        info = load_source(file).info
        assert (info.classes, info.transform) == (("a", "b"), transform)
        assert info.settings["loss"] == "softmax"


def test_a_changed_description_of_weights_is_noticed(run):
    path = write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    content = path.read_bytes()
    mean = content.index(rb"\"mean\": [")
    digit = next(i for i in range(mean, len(content)) if content[i : i + 1] in b"012345678")
    path.write_bytes(content[:digit] + bytes([content[digit] + 1]) + content[digit + 1 :])
    with pytest.raises(UserError, match="is damaged: the description of its model"):
        load_source(path)


def test_an_unfinished_run_is_read_from_its_checkpoint(run):
    save_checkpoint(run, 4, variables(), 0.5)
    save_checkpoint(run, 8, variables(1.0), 0.25)
    step, found = held(run)
    assert step == 4
    assert equal(found, variables())


def test_a_finished_run_is_read_without_its_checkpoints(run):
    save_checkpoint(run, 4, variables(), 0.5)
    write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    (with_both, without) = (held(run), (shutil.rmtree(run / "checkpoints"), held(run))[1])
    assert with_both[0] == without[0] == 4
    assert equal(with_both[1], variables()) and equal(without[1], variables())


def test_weights_from_before_more_training_are_not_read(run):
    write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    save_checkpoint(run, 4, variables(), 0.5)
    save_checkpoint(run, 8, variables(1.0), 0.75)
    step, found = held(run)
    assert step == 8
    assert equal(found, variables(1.0))


@pytest.mark.parametrize("damage", ["bit", "cut", "header"])
def test_damaged_weights_are_refused_in_one_sentence(run, damage):
    path = write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-1000] ^= 1
    elif damage == "cut":
        del content[-1000:]
    else:
        content[12] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        held(run)
    assert RUN_WEIGHTS in str(caught.value)
    assert "damaged" in str(caught.value) or "not a sound" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interrupted_write_leaves_no_file(run, monkeypatch):
    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr("flax_resnet.output_files.os.replace", fail)
    with pytest.raises(UserError, match="No space left"):
        write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    assert not list(run.glob("*.safetensors")) and not list(run.glob(".*part*"))


def test_the_names_are_torchvisions(run):
    path = write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    assert {"conv1.weight", "layer3.0.conv2.weight", "fc.bias"} <= set(read_weights(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model.name": "resnet8", "model.color": 3}'),
        ("preprocessing.json", '{"mean": [0.5], "std": [0.5], "framing": {}}'),
        ("classes.json", "3"),
    ],
)
def test_settings_of_another_version_are_refused(run, name, content):
    write_run_weights(run, variables(), MODEL, step=4, last_step=4)
    (run / name).write_text(content)
    with pytest.raises(UserError, match="are not those of a run of this version"):
        load_source(run)
