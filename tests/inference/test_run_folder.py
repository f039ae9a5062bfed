"""A run's folder read back, also one of an older version."""

import json

import pytest

import flax_resnet as fr
from flax_resnet.data import Framing
from flax_resnet.errors import UserError
from flax_resnet.training import write_description


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run's folder whose checkpoint is not looked at."""
    monkeypatch.setattr("flax_resnet.inference.run_folder.read_variables", lambda _: (0, {}))
    (tmp_path / "config.json").write_text('{"model.name": "resnet20"}')
    return tmp_path


def test_what_is_written_is_read(folder):
    preprocessing = fr.data.Preprocessing((0.5,), (0.25,), 16)
    framing = Framing(28, 28, 32, "bicubic", 1)
    write_description(folder, ("a", "b"), preprocessing, framing)
    run = fr.load_run(folder)
    assert (run.preprocessing, run.framing) == (preprocessing, framing)
    assert json.loads((folder / "class_indices.json").read_text()) == {"0": "a", "1": "b"}


@pytest.mark.parametrize(
    ("settings", "channels", "framing"),
    [
        ({"data.name": "digits"}, 1, Framing(8, 8, 8, channels=1)),
        ({"data.name": "cifar10"}, 3, Framing(32, 32, 32)),
        ({"data.name": "mnist", "model.name": "resnet_mnist"}, 1, Framing(28, 28, 28, channels=1)),
        ({"data.name": "folder", "model.name": "resnet34"}, 3, Framing(224, 224, 256)),
        ({"data.name": "folder", "data.image_size": 112, "data.resize": 120}, 3,
         Framing(112, 112, 120)),
        ({"model.name": "resnet18"}, 3, Framing(224, 224, 256)),
    ],
)  # fmt: skip
def test_older_folders_do_not_say_how_files_are_framed(folder, settings, channels, framing):
    (folder / "config.json").write_text(json.dumps({"model.name": "resnet20"} | settings))
    (folder / "classes.json").write_text('["a", "b"]')
    numbers = [0.5] * channels
    described = {"mean": numbers, "std": numbers, "image_size": None}
    (folder / "preprocessing.json").write_text(json.dumps(described))
    assert fr.load_run(folder).framing == framing


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "weights.npz").touch()
    with pytest.raises(UserError, match=r"is a file, but a run is a folder: fr\.load_weights"):
        fr.load_run(tmp_path / "weights.npz")
