"""Weights of timm: the model is the one that timm means, or the weights are refused."""

import json

import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import UserError, cli
from flax_resnet.weights import load, load_source, write_weights
from flax_resnet.weights.timm import variant_of
from tests.weights.conftest import GOLDEN, seeded_images, seeded_state_dict

NAME = "resnetblur18"
SHAPES = json.loads((GOLDEN / "timm_shapes.json").read_text())[NAME]
CONFIG = {"architecture": NAME, "num_classes": 10, "pretrained_cfg": {"crop_pct": 0.95}}


@pytest.fixture(scope="module")
def state_dict():
    return seeded_state_dict(SHAPES)


@pytest.fixture
def folder(tmp_path, state_dict):
    """A folder as the hub has it."""
    write_weights(tmp_path / "model.safetensors", state_dict, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def logits(classifier):
    model = classifier.model.clone(conv_impl="reference")
    return np.asarray(model.apply(classifier.variables, seeded_images(64, 96), train=False))


def off_by(classifier):
    with np.load(GOLDEN / "timm.npz") as golden:
        expected = golden[NAME]
    return np.abs(logits(classifier) - expected).max() / np.abs(expected).max()


@pytest.mark.slow
def test_blur_pool_was_taken_for_strides(folder, monkeypatch):
    """Its arrays are those of resnet18, and its logits are others."""
    monkeypatch.setattr(load, "fetch_timm", lambda _: (folder / "model.safetensors", CONFIG))
    classifier = fr.load(f"timm/{NAME}.a1_in1k")
    assert classifier.info.config.name == NAME
    assert off_by(classifier) < 1e-5
    assert off_by(fr.load(folder / "model.safetensors", model=None)) < 1e-5
    assert off_by(fr.load(folder)) < 1e-5
    (folder / "config.json").unlink()
    assert off_by(fr.load(folder / "model.safetensors", model="resnet18")) > 0.05


def test_a_file_of_the_hub_without_its_description(folder):
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"arrays of resnet18, .*those of resnetblur18.*--model"):
        fr.load(folder / "model.safetensors")
    assert fr.load(folder / "model.safetensors", model=NAME).model.anti_alias == "blur"


@pytest.mark.parametrize("name", ["resnetblur18_84f4748f.npz", "my-ResNetBlur18.npz"])
def test_a_file_with_the_name_of_another_model(tmp_path, state_dict, name):
    write_weights(tmp_path / name, state_dict)
    with pytest.raises(UserError, match=r"arrays of resnet18, .*those of resnetblur18"):
        fr.load(tmp_path / name)


def test_what_we_write_keeps_the_model(folder):
    classifier = fr.load(folder)
    for ending in ("npz", "pth"):
        with pytest.raises(UserError, match="do not show anti_alias='blur'"):
            classifier.save(folder / f"again.{ending}")
        with pytest.raises(UserError, match="do not show anti_alias='blur'"):
            fr.save_weights(folder / f"again.{ending}", classifier.variables, classifier.model)
        assert not (folder / f"again.{ending}").exists()
    classifier.save(folder / "again.safetensors")
    fr.save_weights(folder / "bare.safetensors", classifier.variables, classifier.model)
    classifier.save(folder / "run")
    (folder / "alone").mkdir()
    (folder / "run/model.safetensors").rename(folder / "alone/model.safetensors")
    for source in ("again.safetensors", "bare.safetensors", "alone/model.safetensors"):
        assert fr.load(folder / source).model == classifier.model, source


def test_inspect_names_the_model(folder, capsys):
    fr.load(folder).save(folder / "again.safetensors")
    for file, model in (("again", "resnetblur18"), ("model", "resnet18")):
        assert cli.main(["inspect", str(folder / f"{file}.safetensors")]) == 0
        printed = capsys.readouterr().out
        assert f"\nmodel       {model} (num_classes=10)\n" in printed
        assert ("same arrays resnetblur18" in printed) == (file == "model")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architecture": "resnest14d"}, "resnest14d is not supported: it has split attention"),
        ({"architecture": "resnet20"}, "'resnet20' is not one of timm's ResNets"),
        ({"architecture": None}, "does not name timm's architecture"),
        ({"architecture": "resnet18d"}, "stem='imagenet'"),
        ({"architecture": "resnet34"}, "not of resnet34"),
        ({"architecture": "seresnet18"}, "not of seresnet18"),
        ({"num_classes": 1000}, "10 classes"),
        ({"model_args": {"act_layer": "silu"}}, "act_layer='silu'"),
        ({"model_args": {"output_stride": 4}}, "output_stride=4"),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode='border'"),
        ({"pretrained_cfg": {"crop_mode": "squash"}}, "crop_mode='squash'"),
        ({"pretrained_cfg": {"interpolation": "lanczos"}}, "lanczos"),
        ({"pretrained_cfg": {"input_size": [3, 224, 160]}}, "square"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "1 means"),
        ({"pretrained_cfg": {"label_offset": 1}}, "label_offset"),
    ],
    ids=str,
)
def test_what_is_not_timms_own_is_refused(folder, change, sentence):
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(UserError) as caught:
        fr.load(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (224, 256, "bicubic")),
        ({"interpolation": "bilinear", "crop_pct": 0.9}, (224, 248, "bilinear")),
        ({"input_size": [3, 288, 288], "crop_pct": 1.0}, (288, 288, "bicubic")),
        ({"crop_mode": "squash", "crop_pct": 1.0}, (224, None, "bicubic")),
        ({"test_input_size": [3, 256, 256], "test_crop_pct": 0.95}, (256, 269, "bicubic")),
    ],
    ids=str,
)
def test_preprocessing_is_timms(folder, settings, expected):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"pretrained_cfg": settings}))
    transform = fr.load(folder).transform
    assert (transform.height, transform.resize, transform.interpolation) == expected


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_dilated_models_of_timm(folder, stride):
    """They were refused as arrays of another model, even with timm's own value."""
    config = CONFIG | {"architecture": "resnet18", "model_args": {"output_stride": stride}}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_source(folder).info.model_options == (
        {} if stride == 32 else {"output_stride": stride}
    )


def test_grey_weights_with_the_preprocessing_of_colour_photos(folder, state_dict):
    """They were loaded, and prediction failed."""
    kernel = state_dict["conv1.weight"][:, :1]
    write_weights(folder / "model.safetensors", state_dict | {"conv1.weight": kernel})
    config = CONFIG | {"model_args": {"in_chans": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    sentence = "takes images of 1 channel, but config.json describes images of 3"
    with pytest.raises(UserError, match=sentence):
        fr.load(folder)
    grey = {"input_size": [1, 224, 224], "mean": [0.5], "std": [0.5]}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": grey}))
    assert load_source(folder).info.transform.mean == (0.5,)


@pytest.mark.parametrize("described", [True, False])
def test_a_head_of_two_layers_in_a_folder(folder, state_dict, described):
    """It was refused with the advice to drop it, also where that was done."""
    head = {"fc.0.weight": state_dict["fc.weight"], "fc.2.weight": np.ones((3, 10), np.float32)}
    body = {name: a for name, a in state_dict.items() if not name.startswith("fc.")}
    write_weights(folder / "model.safetensors", body | head)
    source = folder if described else folder / "model.safetensors"
    with pytest.raises(UserError, match='head="drop" in Python'):
        load_source(source)
    assert not load_source(source, head="drop").info.has_classifier


def test_label_names_of_the_hub(folder):
    labels = [f"class {i}" for i in range(10)]
    (folder / "config.json").write_text(json.dumps(CONFIG | {"label_names": labels}))
    assert fr.load(folder).classes == tuple(labels)


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("tv_resnet50", "resnet50"),
        ("swsl_resnext101_32x16d", "resnext101_32x16d"),
        ("ig_resnext101_32x8d", "resnext101_32x8d"),
        ("gluon_resnet50_v1b", "resnet50"),
        ("gluon_resnet152_v1s", "resnet152s"),
        ("gluon_seresnext50_32x4d", "seresnext50_32x4d"),
        ("resnetv2_50x1_bitm_in21k", "resnetv2_50x1_bit"),
        ("resnetv2_152x2_bit_teacher_384", "resnetv2_152x2_bit"),
        ("seresnext26tn_32x4d", "seresnext26t_32x4d"),
    ],
)
def test_names_that_timm_has_given_up(former, name):
    assert variant_of(former) == name
