"""Paths as people write them, reported by strangers: one test for each."""

import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import Config, DataConfig
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
