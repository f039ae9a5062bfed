"""OpenVINO's format: the numbers of the model in its runtime."""

import numpy as np
import pytest

import flax_resnet as fr

from .models import classifier_of

openvino = pytest.importorskip("openvino")
pytest.importorskip("onnx")


@pytest.mark.parametrize("preprocess", [False, True])
def test_openvino_computes_the_same(preprocess, tmp_path):
    classifier = classifier_of(fr.create_model("resnet8", num_classes=5), name="resnet8")
    path = tmp_path / "model.xml"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    done = classifier.export(path, preprocess=preprocess, photos=list(pixels))
    assert done.comparison.difference < 1e-5
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    model = openvino.Core().read_model(path)
    assert model.get_rt_info(["flax_resnet", "classes"]).astype(str) == '["a", "b", "c", "d", "e"]'
    with pytest.raises(fr.UserError, match="is there already"):
        classifier.export(path)
