"""Weights that are part of the package: they load by name, offline, and do what their cards say."""

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import cli
from flax_resnet.errors import UserError
from flax_resnet.transform import EvalTransform
from flax_resnet.weights import describe, load, shipped_weights, to_torchvision, write_model
from flax_resnet.weights.info import WeightsInfo

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CLASSES = tuple("abcdefghij")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A resnet8 with random values that is as if shipped, and its variables."""
    from flax_resnet.config import ModelConfig

    model = fr.create_model("resnet8", num_classes=10)
    shape = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), shape)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.float32(rng.uniform(0.1, 1, leaf.shape)), abstract)
    transform = EvalTransform.stored_like((32, 32, 3))
    config = ModelConfig(name="resnet8")
    info = WeightsInfo("", "run", None, config, CLASSES, transform)
    halves = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in to_torchvision(variables, model).items()
    }
    write_model(tmp_path / "resnet8-toys.safetensors", halves, model, describe(info))
    card = {"model": "resnet8", "data": "toys"}
    card |= {"correct": {"test": 91}, "images": {"test": 100}}
    (tmp_path / "resnet8-toys.json").write_text(json.dumps(card))
    monkeypatch.setattr(shipped_weights, "FOLDER", tmp_path)
    shipped_weights._all.cache_clear()
    yield variables
    shipped_weights._all.cache_clear()


def test_they_load_by_name(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = fr.load("resnet8/toys")
    assert (classifier.classes, classifier.info.kind) == (CLASSES, "shipped")
    assert classifier.info.metrics == {"acc@1": 91.0}
    for stored, value in zip(
        jax.tree.leaves(classifier.variables), jax.tree.leaves(shipped), strict=True
    ):
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, np.float32(np.float16(value)))
    model, _, info = fr.load_pretrained("resnet8", "resnet8/toys", num_classes=3)
    assert model.num_classes == 3 and not info.has_classifier


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("resnet8/cifar10", {}, "of resnet8 this package holds resnet8/toys"),
        ("resnet8", {}, "of resnet8 this package holds resnet8/toys"),
        ("resnet8/toys", {"model": "resnet20"}, "holds weights of resnet8, not of resnet20"),
        ("./resnet8/toys", {}, "does not exist"),
    ],
)
def test_other_names_are_refused_with_what_there_is(shipped, source, options, message):
    with pytest.raises(UserError, match=message):
        fr.load(source, **options)


def test_a_folder_of_that_name_is_refused(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet8" / "toys").mkdir(parents=True)
    with pytest.raises(UserError, match=r"names both a folder here and published weights"):
        fr.load("resnet8/toys")


def test_predict_answers_without_a_network(shipped, tmp_path, capsys, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (50, 40), "red").save(tmp_path / "photo.jpg")
    assert cli.main(["predict", "resnet8/toys", str(tmp_path / "photo.jpg")]) == 0
    assert "photo.jpg" in capsys.readouterr().out


def test_finetune_without_a_network_names_them():
    from flax_resnet.weights import hub

    assert all(one.name in hub._ALTERNATIVES for one in shipped_weights.shipped_weights())
    assert all(one.name in load.FORMS for one in shipped_weights.shipped_weights())


def test_files_are_small_and_have_cards():
    files = sorted(shipped_weights.FOLDER.glob("*.safetensors"))
    held = shipped_weights.shipped_weights()
    assert [one.path for one in held] == files
    assert all(file.stat().st_size <= 1_000_000 for file in files)
    for one in held:
        assert {"command", "commit", "licence", "intended_use", "epochs", "seed"} <= set(one.card)
        classifier = fr.load(one.name)
        assert classifier.info.config.name == one.model and len(classifier.classes) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in shipped_weights.shipped_weights()])
def test_a_card_is_right_to_the_image(name, repository):
    check = runpy.run_path(str(repository / ".ci" / "shipped_weights.py"))["check"]
    found = check(shipped_weights.find_shipped(name), SHARED)
    if "right to the image" not in found:
        pytest.skip(found)


def test_a_card_is_not_compared_without_its_data(tmp_path, repository):
    check = runpy.run_path(str(repository / ".ci" / "shipped_weights.py"))["check"]
    found = check(shipped_weights.find_shipped("resnet_mnist/mnist"), tmp_path)
    assert found.startswith("resnet_mnist/mnist answers; its card was not compared: ")
