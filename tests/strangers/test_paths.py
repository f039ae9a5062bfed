"""Paths as people write them, reported by strangers: one test for each."""

import dataclasses

import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig, ModelConfig
from flax_resnet.training.workdir import open_workdir


def test_a_home_in_the_workdir_is_expanded(tmp_path, monkeypatch):
    """``--workdir=~/x``, which no shell expands, made a folder called ``~``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert open_workdir(Config(workdir="~/x")) == tmp_path / "x"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run", "https://host/run"])
@pytest.mark.parametrize("option", ["--workdir", "--data.dir"])
def test_an_address_is_refused_at_once(tmp_path, monkeypatch, capsys, option, address):
    """``--workdir gs://bucket/run`` made a folder ``gs:`` and failed at the first save."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "digits", option, address]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert message.startswith(f"error: {option} is {address}; ")
    assert message.endswith("name a local folder.") and message.count("error") == 1
    assert not list(tmp_path.iterdir())


def test_a_local_folder_passes():
    fr.check_config(Config(workdir="runs/a:b", data=DataConfig(dir="c:/photos")))


@pytest.mark.parametrize(
    "name",
    [
        "photos [v2]",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("what? *all*", "{a,b} $HOME #1 \u82b1", "-[!x]")
        ),
    ],
)
def test_a_run_lives_under_any_path(tmp_path, console, monkeypatch, name):
    """Brackets in a path hid a checkpoint's files from orbax, which takes them for a pattern."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    workdir = tmp_path / name / "run"
    config = Config(
        model=ModelConfig(name="resnet8"),
        data=DataConfig(name="digits", batch_size=128),
        epochs=2,
        max_steps=2,
        workdir=str(workdir),
        compile_cache=None,
    )
    assert fr.train(config, console).finished
    (workdir / "model.safetensors").unlink()
    before = fr.load(workdir)  # from the checkpoint
    result = fr.train(dataclasses.replace(config, max_steps=3), console)
    assert "Resuming from the checkpoint after step 2" in console.text()
    assert result.step == 3 and before.info.step == 2
    assert fr.load(workdir).info.step == result.best_step
    image = np.zeros((8, 8), np.uint8)
    assert np.isfinite(before.predict(image).probabilities).all()
    assert (workdir / "checkpoints").is_dir() and not (workdir / "checkpoints").is_symlink()
