"""Wrong usage of export, and what is left behind: nothing."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.inference.export import comparison

from .models import classifier_of


@pytest.fixture(scope="module")
def classifier():
    return classifier_of(fr.create_model("resnet8", num_classes=5), name="resnet8")


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("none/model.onnx", {}, "The folder .*none does not exist: make it"),
        ("here.onnx", {}, "here.onnx is there already: name another file, or give --force"),
        ("folder.onnx", {}, "is a folder: name a file"),
        ("model.bin", {}, r"must end in \.onnx or"),
        ("model.onnx", {"format": "pth"}, r"must end in \.pth for --format pth"),
        ("model.onnx", {"opset": 11}, "--opset is 11; it must be from 18 to 22"),
        ("model.onnx", {"resize": True}, "--resize needs --preprocess"),
        ("model.pth", {"preprocess": True}, "--preprocess does not go with the format pth"),
    ],
)
def test_wrong_usage_is_one_sentence(classifier, output, options, message, tmp_path):
    (tmp_path / "here.onnx").write_text("kept")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(fr.UserError, match=message):
        classifier.export(tmp_path / output, **options)
    assert {path.name for path in tmp_path.iterdir()} == {"here.onnx", "folder.onnx"}
    assert (tmp_path / "here.onnx").read_text() == "kept"


def test_a_backbone_is_not_exported(classifier, tmp_path):
    info = dataclasses.replace(classifier.info, has_classifier=False, classes=())
    backbone = dataclasses.replace(classifier, info=info)
    with pytest.raises(fr.UserError, match="hold no classifier"):
        backbone.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".onnx", ".safetensors", ".pth"])
def test_a_failed_comparison_leaves_no_file(classifier, ending, tmp_path, monkeypatch):
    """The one that is there stays, with --force too."""
    if ending == ".onnx":
        pytest.importorskip("onnxruntime")
    (tmp_path / f"model{ending}").write_text("kept")
    monkeypatch.setattr(comparison, "MOST_DIFFERENCE", -1.0)
    with pytest.raises(fr.UserError, match="does not compute what its source does"):
        classifier.export(tmp_path / f"model{ending}", force=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]


def test_a_wrong_graph_fails_the_comparison():
    expected = np.array([[1.0, 2.0], [3.0, -1.0]])
    assert comparison.compare(expected, expected + 1e-6).agreement == 1
    for wrong in (expected + 0.01, expected[:, ::-1], expected * np.nan):
        with pytest.raises(fr.UserError, match="does not compute"):
            comparison.compare(expected, wrong)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_weights_are_exported_and_loaded_again(classifier, ending, tmp_path):
    path = tmp_path / f"model{ending}"
    done = classifier.export(path)
    assert done.comparison.difference == 0 and done.comparison.images == 16
    images = np.zeros((1, 32, 32, 3), np.uint8)
    expected = classifier.predict(images).probabilities
    np.testing.assert_array_equal(fr.load(path).predict(images).probabilities, expected)


@pytest.mark.parametrize("ending", [".onnx", ".stablehlo"])
def test_a_model_of_bfloat16_is_exported_in_float32(classifier, ending, tmp_path):
    """It was compared with the logits of bfloat16, and refused."""
    pytest.importorskip("onnxruntime" if ending == ".onnx" else "flatbuffers")
    model = classifier.model.clone(dtype=jnp.bfloat16)
    source = dataclasses.replace(classifier, model=model)
    assert source.export(tmp_path / f"model{ending}").comparison.difference < 1e-5


def test_the_command_names_missing_photos(tmp_path, capsys, classifier):
    classifier.save(tmp_path / "weights.safetensors")
    words = ["export", str(tmp_path / "weights.safetensors"), "--output", str(tmp_path / "m.onnx")]
    assert main([*words, "--photos", str(tmp_path / "none")]) == 1
    assert "There are no photos in" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "weights.safetensors")]) == 2
    assert "--output is missing" in capsys.readouterr().err
