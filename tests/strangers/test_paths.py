"""Paths as people write them, reported by strangers: one test for each."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, ModelConfig
from flax_resnet.errors import UserError
from flax_resnet.paths import expand
from flax_resnet.training.resolve import resolve
from flax_resnet.training.workdir import open_workdir
from tests.tiny_net import TINY


def test_a_home_in_the_workdir_is_expanded(tmp_path, monkeypatch):
    """``--workdir=~/x``, which no shell expands, made a folder called ``~``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = resolve(Config(ModelConfig(name="resnet8"), DataConfig(name="digits"), workdir="~/x"))
    assert open_workdir(run, run.init()) == tmp_path / "x"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("address", ["hdfs://host/run", "az://bucket/run", "https://host/run"])
@pytest.mark.parametrize("option", ["--workdir", "--data.dir"])
def test_an_address_is_refused_at_once(tmp_path, monkeypatch, capsys, option, address):
    """``--workdir gs://bucket/run`` made a folder ``gs:``, as any other address did."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "digits", option, address]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.startswith(f"error: {option}: {address}: ") and message.count("error") == 1
    assert "addresses are not supported here: name a local path" in message
    assert not list(tmp_path.iterdir())


def test_a_local_folder_passes():
    fr.check_config(Config(workdir="runs/a:b", data=DataConfig(dir="c:/photos")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos [v2]", "what? *all*", "{a,b} $HOME #1 \u82b1", "-[!x]"])
def test_a_run_lives_under_any_path(tmp_path, console, monkeypatch, request, name):
    """Brackets in a path hid a checkpoint's files from orbax, which takes them for a pattern."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    workdir = tmp_path / name / "run"
    config = Config(
        model=TINY,
        data=DataConfig(name="digits", batch_size=128),
        epochs=2,
        max_steps=2,
        workdir=str(workdir),
        compile_cache=None,
    )
    assert fr.train(config, console).finished
    (workdir / "model.safetensors").unlink()
    before = fr.load(workdir)  # from the checkpoint
    request.getfixturevalue("no_page")  # which the first one has
    result = fr.train(dataclasses.replace(config, max_steps=3), console)
    assert "Resuming from the checkpoint after step 2" in console.text()
    assert result.step == 3 and before.info.step == 2
    assert fr.load(workdir).info.step == result.best_step
    image = np.zeros((8, 8), np.uint8)
    assert np.isfinite(before.predict(image).probabilities).all()
    assert (workdir / "checkpoints").is_dir() and not (workdir / "checkpoints").is_symlink()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home apart from the working directory, in which no folder ``~`` may appear."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert not list((tmp_path / "work").iterdir())


@pytest.fixture
def weights(home):
    model = fr.create_model("resnet8", num_classes=2)
    variables = jax.jit(partial(model.init, train=False))(
        jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)
    )
    fr.save_weights("~/net.safetensors", variables, model)
    assert (home / "net.safetensors").is_file()
    return model


def test_a_home_in_weights_is_expanded(home, weights, capsys):
    """``inspect ~/x`` and the functions that read and write weights did not find a home."""
    assert fr.load_weights("~/net.safetensors", weights).keys() == {"params", "batch_stats"}
    assert fr.load("~/net.safetensors").model.num_classes == 2
    assert main(["inspect", "~/net.safetensors"]) == 0
    assert main(["convert", "~/net.safetensors", "~/net.npz"]) == 0
    assert (home / "net.npz").is_file()
    assert main(["convert", "~/net.safetensors", "~/run"]) == 0
    assert main(["inspect", "~/run/model.safetensors"]) == 0


def test_a_home_in_images_and_outputs_is_expanded(home, weights):
    """The options of ``evaluate``, lists, and paths given to ``predict`` in Python."""
    for name in ("0", "1"):
        (home / "photos" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (number, 9, 9)).save(home / "photos" / name / f"{number}.png")
    outputs = {"--json": "scores.json", "--output": "rows.csv", "--confusion": "matrix.png"}
    options = [word for name, file in outputs.items() for word in (name, f"~/out/{file}")]
    assert main(["evaluate", "~/net.safetensors", "~/photos", *options]) == 0
    assert {path.name for path in (home / "out").iterdir()} == set(outputs.values())
    (home / "list.csv").write_text("path,label\n~/photos/0/0.png,0\nphotos/1/1.png,1\n")
    assert main(["evaluate", "~/net.safetensors", "~/list.csv"]) == 0
    assert main(["predict", "~/net.safetensors", "~/photos", "--output", "~/out/all.jsonl"]) == 0
    predictions = fr.load("~/net.safetensors").predict(["~/photos/0/0.png"])
    assert predictions.names == ("~/photos/0/0.png",) and not predictions.failed


def test_a_home_in_the_name_of_a_recipe_is_expanded(home, capsys):
    (home / "mine.py").write_text("from flax_resnet.config import Config\nconfig = Config()\n")
    assert fr.load_config("~/mine.py").workdir == "runs/mine"


def test_a_user_that_does_not_exist_is_a_name(home):
    assert str(expand("~nobody-here/x")) == "~nobody-here/x"


def test_a_home_that_is_not_known_is_refused(monkeypatch):
    """A container with a user number that no file names; a folder ``~`` was the alternative."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UserError, match=r"~/x begins with ~, .* HOME"):
        fr.load("~/x")
