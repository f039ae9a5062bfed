"""int8: integers in the file, a loss that is measured, stored and limited."""

import json

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.inference.export import Calibration
from flax_resnet.inference.export.int8 import spread

from .models import classifier_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Photos to calibrate with, and held-out ones in folders of the classes that a net gives."""
    folder = tmp_path_factory.mktemp("int8")
    classifier = classifier_of(fr.create_model("resnet8", num_classes=5), name="resnet8")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 4, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    labels = classifier.predict(images).labels
    (folder / "calibration").mkdir()
    (folder / "empty").mkdir()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if number % 3:
            (folder / "held_out" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / "held_out" / label / f"{number}.png")
        else:
            Image.fromarray(image).save(folder / "calibration" / f"{number}.png")
    return classifier, folder


def test_weights_are_integers_and_the_loss_is_measured(folders, tmp_path):
    classifier, folder = folders
    path = tmp_path / "int8.onnx"
    calibration = Calibration(folder / "calibration", folder / "held_out", max_loss=0.2)
    done = classifier.export(path, int8=calibration, preprocess=True)
    assert done.comparison.difference < 1e-5  # of the float file before
    assert "top-1 100.00% in float32" in done.facts["int8"]
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    stored = {entry.key: entry.value for entry in proto.metadata_props}
    figures = json.loads(stored["int8"])
    assert figures["float32"] == 1 and figures["int8"] >= 0.8
    assert (figures["held_out"], figures["calibration"]) == (16, 8)
    assert json.loads(stored["classes"]) == list("abcde")
    kernels = {t.name: t for t in proto.graph.initializer if t.name.endswith("weight_quantized")}
    assert len(kernels) == 8 and all(t.data_type == onnx.TensorProto.INT8 for t in kernels.values())
    scales = [t for t in proto.graph.initializer if t.name == "layer2_0/conv1.weight_scale"]
    assert list(scales[0].dims) == [32]  # one for each output channel
    assert [file.name for file in tmp_path.iterdir()] == ["int8.onnx"]
    result = fr.load(path).evaluate(folder / "held_out").result
    assert result.top1 == pytest.approx(figures["int8"])


@pytest.mark.parametrize(
    ("calibration", "held_out", "loss", "message"),
    [
        ("calibration", "held_out", -1.0, "int8 loses too much: top-1 100.00% in float32 and"),
        ("empty", "held_out", 0.5, "There are no photos in .*empty to calibrate with"),
        ("held_out", "held_out", 0.5, "of the held-out photos, such as .*are among those of the"),
        (None, "held_out", 0.5, "give --calibration FOLDER"),
        ("calibration", None, 0.5, "give --held-out FOLDER"),
    ],
)
def test_nothing_is_written_without_a_fair_measure(
    folders, calibration, held_out, loss, message, tmp_path
):
    classifier, folder = folders
    photos, labelled = (None if name is None else folder / name for name in (calibration, held_out))
    with pytest.raises(fr.UserError, match=message):
        classifier.export(tmp_path / "int8.onnx", int8=Calibration(photos, labelled, loss))
    assert not list(tmp_path.iterdir())


def test_the_photos_of_the_calibration_are_of_all_classes():
    """The images of a run are in the order of their classes."""
    assert spread(500, 256)[[0, -1]].tolist() == [0, 499]
    assert np.diff(spread(500, 256)).max() == 2 and len(set(spread(500, 256))) == 256
    assert spread(3, 256).tolist() == [0, 1, 2]


def test_photos_that_cannot_be_read_do_not_calibrate(folders, tmp_path):
    classifier, folder = folders
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    calibration = Calibration(tmp_path, folder / "held_out", 0.5)
    with pytest.raises(fr.UserError, match="None of the photos to calibrate with can be read"):
        classifier.export(tmp_path / "int8.onnx", int8=calibration)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_a_run_is_quantised_by_its_own_photos(run_folder, tmp_path, capsys):
    path = tmp_path / "int8.onnx"
    words = ["export", str(run_folder), "--output", str(path), "--int8", "--max-loss", "0.2"]
    assert main(words) == 0
    assert "in int8, on 15 held-out images; ranges of 72 photos" in capsys.readouterr().out
    assert main([*words[:-3], "--calibration", "photos"]) == 2
    assert "need --int8" in capsys.readouterr().err
