"""The model is read off the arrays."""

import json

import pytest

import flax_resnet as fr
from flax_resnet import UserError
from flax_resnet.weights.infer import UNSEEN_OPTIONS

from .conftest import GOLDEN, torch_shapes

SHAPES = json.loads((GOLDEN / "torchvision_shapes.json").read_text())


@pytest.mark.parametrize("name", SHAPES)
def test_torchvisions_models_are_told_apart(name):
    assert str(fr.infer_model({key: tuple(shape) for key, shape in SHAPES[name].items()})) == name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"num_classes": 5}),
        ("resnet18", {"stem": "cifar", "num_classes": 10}),
        ("resnet10t", {}),
        ("resnet", {"stage_sizes": (2, 2), "block": "basic", "widths": (32, 64)}),
        (
            "resnet",  # a bottleneck network for CIFAR
            {
                "stage_sizes": (2, 2, 2),
                "block": "bottleneck",
                "widths": (16, 32, 64),
                "stem": "cifar",
                "num_classes": 10,
            },
        ),
        pytest.param("resnet50c", {}, marks=pytest.mark.slow),
        ("seresnet18", {}),
        pytest.param("seresnet34", {"stem": "cifar"}, marks=pytest.mark.slow),
        pytest.param("ecaresnet50d", {}, marks=pytest.mark.slow),
        pytest.param("ecaresnetlight", {}, marks=pytest.mark.slow),
        ("resnet26", {}),
        pytest.param("resnet50_gn", {}, marks=pytest.mark.slow),
        ("resnetv2_18", {}),
        ("resnetv2_50d_gn", {}),
        ("resnet20", {}),
        ("resnet56", {"shortcut": "B"}),
        pytest.param("resnet32", {"shortcut": "C", "num_classes": 100}, marks=pytest.mark.slow),
        pytest.param("resnet164_v2", {}, marks=pytest.mark.slow),
        ("resnext29_8x64d", {}),
        ("resnext29_32x4d", {"num_classes": 100}),
        ("wrn28_10", {}),
        ("wrn16_8", {"num_classes": 100}),
        ("resnet34", {"norm": "group"}),
        ("resnet20", {"hidden": (16, 8), "num_classes": 5}),
    ],
    ids=str,
)
def test_name_and_switches_are_found(name, options):
    model = fr.create_model(name, **options)
    shapes = torch_shapes(model)
    inferred = fr.infer_model(shapes)
    assert (inferred.name, dict(inferred.options)) == (name, options)
    assert inferred.create() == model


# Anti-aliasing and standardised kernels have no arrays.
SAME_ARRAYS = {
    "resnet34d": ("resnet34d", "resnetaa34d"),
    "seresnetaa50d": ("seresnet50t", "seresnetaa50d"),
    "resnetv2_50x1_bit": ("resnetv2_50", "resnetv2_50x1_bit"),
}


@pytest.mark.parametrize("name", SAME_ARRAYS)
def test_arrays_of_several_of_timms_models(name):
    model = fr.create_model(name)
    shapes = torch_shapes(model)
    inferred = fr.infer_model(shapes)
    assert (inferred.name, *inferred.same_arrays) == SAME_ARRAYS[name]
    assert inferred.unknown in (("anti_alias",), ("standardized_kernels",))
    inferred = fr.infer_model(shapes, name=name)
    assert (inferred.name, dict(inferred.options)) == (name, {})
    known = {option: getattr(model, option) for option in UNSEEN_OPTIONS}
    inferred = fr.infer_model(shapes, known=known)
    assert inferred.create() == model and inferred.unknown == ()


@pytest.mark.parametrize("name", ["resnetblur18", "resnetaa50"])
def test_arrays_of_torchvisions_models_are_taken_for_them(name):
    inferred = fr.infer_model(torch_shapes(fr.create_model(name)))
    assert inferred.name == f"resnet{name[-2:]}"
    assert name in inferred.same_arrays


@pytest.mark.parametrize("name", [None, "resnet50"])
def test_v1_is_an_option_of_a_named_model(name):
    """It was lost where the model was named, because no name stands for it."""
    shapes = {key: tuple(shape) for key, shape in SHAPES["resnet50"].items()}
    inferred = fr.infer_model(shapes, name=name, known={"version": "v1"})
    assert str(inferred) == "resnet50 (version='v1')"


@pytest.mark.parametrize("name", ["resnet9", "resnet_mnist"])
@pytest.mark.parametrize("options", [{}, {"num_classes": 7, "hidden": (5,)}], ids=str)
def test_a_model_whose_stages_begin_with_a_convolution_is_known_by_its_name(name, options):
    model = fr.create_model(name, **options)
    shapes = torch_shapes(model)
    assert fr.infer_model(shapes, name=name).create() == model
    with pytest.raises(UserError, match=f"not the weights of {name}"):
        fr.infer_model(shapes | {"conv2.weight": (1, 1, 3, 3)}, name=name)


def test_a_head_of_more_layers_is_torchs_sequential():
    """Linear, ReLU, Linear, ReLU, Dropout, Linear."""
    names = list(torch_shapes(fr.create_model("resnet20", hidden=(16, 8))))
    assert [name for name in names if name.startswith("fc")] == [
        f"fc.{place}.{leaf}" for place in (0, 2, 5) for leaf in ("weight", "bias")
    ]


def test_a_projection_head_is_no_classifier():
    shapes = dict(torch_shapes(fr.create_model("resnet20", hidden=(16,))))
    shapes |= {"fc.2.weight": shapes.pop("fc.3.weight"), "fc.2.bias": shapes.pop("fc.3.bias")}
    assert fr.infer_model(shapes).classes is None


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({}, "not the weights of a ResNet"),
        ({"features.0.weight": (64, 3, 3, 3)}, "not the weights of a ResNet"),
        ({"layer1.0.conv1.weight": (64, 64, 3, 3)}, "incomplete"),
        ({"layer1.0.conv1.weight": (), "layer1.0.conv2.weight": ()}, "incomplete"),
        ({"layer1.0.conv1.weight": (0, 0, 0, 0), "layer1.0.conv2.weight": (0, 0)}, "incomplete"),
    ],
)
def test_other_arrays_are_refused(shapes, sentence):
    with pytest.raises(UserError, match=sentence):
        fr.infer_model(shapes)
