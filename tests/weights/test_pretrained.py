"""A model with published weights in one call; the file is on disk already."""

import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.weights import load, write_weights

from .conftest import seeded_state_dict, torch_shapes


@pytest.fixture(scope="module")
def state_dict():
    return seeded_state_dict(torch_shapes(fr.create_model("resnet18")))


@pytest.fixture(scope="module")
def file(state_dict, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    write_weights(path, state_dict)
    return path


def test_weights_of_a_file(file, state_dict):
    model, variables, info = fr.load_pretrained("resnet18", weights=file)
    assert model.num_classes == 1000
    assert np.array_equal(variables["params"]["fc"]["bias"], state_dict["fc.bias"])
    assert info.classes[0] == "0"  # 1,000 classes are not always those of ImageNet
    assert (info.transform.resize, info.transform.height, info.path) == (256, 224, file)


def test_another_number_of_classes_has_a_fresh_head(file, state_dict):
    _, variables, info = fr.load_pretrained("resnet18", weights=file, num_classes=3)
    assert variables["params"]["fc"]["kernel"].shape == (512, 3)
    assert info.classes == ("0", "1", "2")
    mean = variables["batch_stats"]["bn1"]["mean"]
    assert np.array_equal(mean, state_dict["bn1.running_mean"])


def test_another_model_is_refused_by_name(file):
    with pytest.raises(UserError, match=r"weights of resnet18, not of resnet34"):
        fr.load_pretrained("resnet34", weights=file)


def test_published_set_with_its_facts(file, monkeypatch):
    monkeypatch.setattr(load, "fetch_published", lambda entry, cache: file)
    model, _, info = fr.load_pretrained("resnet18")
    assert model.num_classes == 1000
    assert info.metrics == {"acc@1": 69.758, "acc@5": 89.078}
    assert (info.transform.resize, info.transform.height) == (256, 224)
    assert info.transform.interpolation == "bilinear"
    assert info.transform.mean == (0.485, 0.456, 0.406)


def test_facts_of_timm(file, monkeypatch):
    config = {
        **{"input_size": [3, 176, 176], "test_input_size": [3, 224, 224]},
        **{"crop_pct": 0.875, "test_crop_pct": 0.965, "interpolation": "bicubic"},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    }
    monkeypatch.setattr(
        load, "fetch_timm", lambda name: (file, config | {"architecture": "resnet18"})
    )
    _, _, info = fr.load_pretrained("resnet18", weights="timm/resnet18.a1_in1k")
    assert (info.transform.resize, info.transform.height) == (232, 224)
    assert info.transform.interpolation == "bicubic"
    assert info.transform.mean == (0.5, 0.5, 0.5)
    assert info.classes[999] == "toilet tissue"


def test_no_weights_is_a_fresh_model():
    model, variables, info = fr.load_pretrained("resnet20", weights="none", num_classes=4)
    assert variables["params"]["fc"]["kernel"].shape == (64, model.num_classes) == (64, 4)
    assert info.path is None


def test_unknown_set_is_refused():
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        fr.load_pretrained("resnet18", weights="IMAGENET1K_V2")
    with pytest.raises(UserError, match="is not there"):
        fr.load_pretrained("resnet18", weights="missing.pth")
