"""Conversion of state dicts: strict, both ways, of every kind of net we have."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet import UserError

from .conftest import seeded_state_dict, torch_shapes

# Of each kind one that is quickly initialised.
KINDS = {
    "basic": ("resnet20", {}),
    "projections": ("resnet20", {"shortcut": "C"}),
    "cifar stem": ("resnet18", {"stem": "cifar", "num_classes": 7}),
    "grouped": ("resnext29_32x4d", {}),
    "pre-activation": ("resnet29_v2", {}),
    "wide": ("wrn10_2", {}),
    "plain": ("plain20", {}),
    "resnet-d": ("resnet18", {"stem": "deep", "avg_pool_shortcut": True}),
    "group norm": ("resnet20", {"norm": "group", "widths": (32, 64, 128)}),
    "mnist": ("resnet_mnist", {}),
}


def numbered(shapes):
    """Every value different, so that a wrong order or a swapped axis shows."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_bit_equal(kind):
    name, options = KINDS[kind]
    model = fr.create_model(name, **options)
    state_dict = numbered(torch_shapes(model))
    exported = fr.to_torchvision(fr.from_torchvision(state_dict, model), model)
    assert exported.keys() == state_dict.keys()
    for key, array in exported.items():
        if not key.endswith("num_batches_tracked"):
            assert np.array_equal(array, state_dict[key]), key
            assert array.flags.c_contiguous


def test_kernels_are_transposed_as_their_meaning_asks():
    """Against convolution and matrix product written out."""
    model = fr.create_model("resnet20")
    state_dict = seeded_state_dict(torch_shapes(model))
    params = fr.from_torchvision(state_dict, model)["params"]
    weight = state_dict["layer2.0.conv1.weight"]  # [out, in, H, W]
    kernel = params["layer2_0"]["conv1"]["kernel"]  # [H, W, in, out]
    assert kernel.shape == (3, 3, 16, 32)
    assert kernel[0, 2, 5, 31] == weight[31, 5, 0, 2]
    assert params["fc"]["kernel"][63, 9] == state_dict["fc.weight"][9, 63]


def test_timms_names_of_a_d_variant():
    model = fr.create_model("resnet50", stem="deep", avg_pool_shortcut=True)
    names = torch_shapes(model)
    assert names["conv1.0.weight"] == (32, 3, 3, 3)
    assert names["conv1.1.running_var"] == (32,)
    assert names["conv1.3.weight"] == (32, 32, 3, 3)
    assert names["conv1.6.weight"] == (64, 32, 3, 3)
    assert names["bn1.weight"] == (64,)
    assert names["layer2.0.downsample.1.weight"] == (512, 256, 1, 1)
    assert names["layer2.0.downsample.2.weight"] == (512,)


@pytest.fixture(scope="module")
def resnet20():
    model = fr.create_model("resnet20")
    return model, numbered(torch_shapes(model))


def test_every_problem_is_listed_at_once(resnet20):
    model, state_dict = resnet20
    wrong = dict(state_dict)
    del wrong["layer1.0.conv1.weight"], wrong["bn1.bias"]
    wrong["layer9.weight"] = np.zeros(3, np.float32)
    wrong["layer3.1.bn2.weight"] = np.zeros(65, np.float32)
    wrong["conv1.weight"] = np.zeros((16, 3, 3, 3), np.int64)
    with pytest.raises(UserError) as caught:
        fr.from_torchvision(wrong, model)
    for part in (
        "2 missing: bn1.bias, layer1.0.conv1.weight",
        "1 unexpected: layer9.weight",
        "layer3.1.bn2.weight is [65], not [64]",
        "conv1.weight is of int64",
    ):
        assert part in str(caught.value)


def test_not_strict_tells_what_was_left_and_fills_it(resnet20):
    model, state_dict = resnet20
    wrong = dict(state_dict)
    del wrong["bn1.weight"]
    wrong["extra.weight"] = np.zeros(3, np.float32)
    wrong["fc.bias"] = np.zeros(11, np.float32)
    variables, left = fr.from_torchvision(wrong, model, strict=False)
    assert left.missing == ("bn1.weight",)
    assert left.unexpected == ("extra.weight",)
    assert left.mismatched == ("fc.bias is [11], not [10]",)
    assert np.array_equal(variables["params"]["bn1"]["scale"], np.ones(16))
    kernel = state_dict["conv1.weight"].transpose(2, 3, 1, 0)
    assert np.array_equal(variables["params"]["conv1"]["kernel"], kernel)
    complete, left = fr.from_torchvision(state_dict, model, strict=False)
    assert not left
    assert jax.tree.structure(complete) == jax.tree.structure(variables)


def test_another_number_of_classes(resnet20, caplog):
    _, state_dict = resnet20
    model = fr.create_model("resnet20", num_classes=5)
    with pytest.raises(UserError, match="only the classifier differs, head='drop'"):
        fr.from_torchvision(state_dict, model)
    first = fr.from_torchvision(state_dict, model, head="drop")
    assert "fc is fresh: 5 classes" in caplog.text
    assert first["params"]["fc"]["kernel"].shape == (64, 5)
    assert np.ptp(first["params"]["fc"]["kernel"]) > 0
    other = fr.from_torchvision(state_dict, model, head="drop", key=jax.random.key(1))
    assert not np.array_equal(first["params"]["fc"]["kernel"], other["params"]["fc"]["kernel"])
    assert np.array_equal(first["params"]["conv1"]["kernel"], other["params"]["conv1"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize(("size", "hidden"), [(32, ()), (20, (6,))])
def test_a_head_that_sees_every_pixel_is_of_any_image_size(size, hidden):
    """That of resnet_mnist was taken for one of 28x28 pixels: runs on others ended in an error."""
    model = fr.create_model("resnet_mnist", hidden=hidden)
    image = jnp.zeros((1, size, size, 1))
    variables = jax.jit(lambda key: model.init(key, image))(jax.random.key(0))
    state_dict = fr.to_torchvision(variables, model)
    inputs, first = 32 * (size // 4) ** 2, "fc.0.weight" if hidden else "fc.weight"
    assert state_dict[first].shape[1] == inputs
    again = fr.from_torchvision(state_dict, model)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, dict(variables)))
    other = model.clone(num_classes=3)
    fresh = fr.from_torchvision(state_dict, other, head="drop")
    assert other.apply(fresh, image).shape == (1, 3)
    state_dict[first] = state_dict[first][:, 1:]
    with pytest.raises(UserError, match=f"{first} is .*{inputs - 1}"):
        fr.from_torchvision(state_dict, model)


def test_another_architecture_is_named(resnet20):
    _, state_dict = resnet20
    with pytest.raises(UserError, match=r"they look like those of resnet20\. \d+ missing: "):
        fr.from_torchvision(state_dict, fr.create_model("resnet32"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": array for name, array in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": array for name, array in state.items()},
        lambda state: {f"model.{name}": array for name, array in state.items()},
        lambda state: {
            **{f"module.encoder_q.{name}": array for name, array in state.items()},
            **{f"module.encoder_k.{name}": array for name, array in state.items()},
            "module.queue": np.zeros((4, 4), np.float32),
        },
        lambda state: {
            "teacher": {f"module.backbone.{name}": array for name, array in state.items()}
        },
        lambda state: {name.replace("fc.", "linear."): array for name, array in state.items()},
        lambda state: {
            name: array for name, array in state.items() if "num_batches_tracked" not in name
        },
    ],
    ids=["state_dict", "module", "compiled", "model", "moco", "dino", "linear", "no counters"],
)
def test_wrappings_and_names_are_understood(resnet20, wrap):
    model, state_dict = resnet20
    expected = fr.from_torchvision(state_dict, model)
    ours = fr.from_torchvision(wrap(state_dict), model)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, expected))


def test_kuangliu_shortcuts_are_understood():
    model = fr.create_model("resnet18", stem="cifar")
    state_dict = numbered(torch_shapes(model))
    renamed = {
        name.replace(".downsample.", ".shortcut.").replace("fc.", "linear."): array
        for name, array in state_dict.items()
    }
    expected = fr.from_torchvision(state_dict, model)
    ours = fr.from_torchvision(renamed, model)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, expected))


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=["fp16", "bf16", "fp64"]
)
def test_other_precisions_become_the_models(resnet20, dtype):
    model, state_dict = resnet20
    rounded = {
        name: array if array.dtype == np.int64 else array.astype(dtype)
        for name, array in state_dict.items()
    }
    variables = fr.from_torchvision(rounded, model)
    fc = variables["params"]["fc"]["kernel"]
    assert fc.dtype == np.float32
    assert np.array_equal(fc, rounded["fc.weight"].T.astype(np.float32))


def test_float64_beyond_float32_is_refused(resnet20):
    model, state_dict = resnet20
    wrong = dict(state_dict)
    wrong["fc.bias"] = np.full(10, 1e39)
    with pytest.raises(UserError, match=r"fc\.bias holds float64 values beyond float32"):
        fr.from_torchvision(wrong, model)


def test_variables_of_another_model_are_not_exported(resnet20):
    model, state_dict = resnet20
    variables = fr.from_torchvision(state_dict, model)
    with pytest.raises(UserError, match=r"missing: .*params/layer1_3/conv1/kernel"):
        fr.to_torchvision(variables, fr.create_model("resnet32"))


@pytest.mark.parametrize("wrong", [{}, {"epoch": 3}, [1, 2], {"state_dict": {"a": 1}}])
def test_no_state_dict_is_said(wrong):
    with pytest.raises(UserError, match="holds no state dict"):
        fr.from_torchvision(wrong, fr.create_model("resnet20"))


def test_a_dict_inside_itself_ends():
    cyclic = {}
    cyclic["state_dict"] = cyclic
    with pytest.raises(UserError, match="holds no state dict"):
        fr.from_torchvision(cyclic, fr.create_model("resnet20"))


def test_grey_images_follow_the_first_convolution():
    model = fr.create_model("resnet20")
    state_dict = numbered(torch_shapes(model, channels=1))
    exported = fr.to_torchvision(fr.from_torchvision(state_dict, model), model)
    assert exported["conv1.weight"].shape == (16, 1, 3, 3)
    assert np.array_equal(exported["conv1.weight"], state_dict["conv1.weight"])
