"""Effect of each option of ResNet: shapes, parameters, and values against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_resnet.models import ResNet, create_model
from flax_resnet.models.antialiasing import blur_pool
from flax_resnet.models.blocks import PostActivationBlock, PreActivationBlock, conv_specs
from flax_resnet.models.layers import Conv
from flax_resnet.models.norm import BatchNorm

TINY = {"stage_sizes": (1, 2), "widths": (8, 16), "num_classes": 5, "stem": "cifar"}


def tiny(block="basic", **options):
    return ResNet(**TINY | {"block": block} | options)


def abstract_init(module, shape=(2, 8, 8, 3), **options):
    init = partial(module.init, train=False, **options)
    return jax.eval_shape(lambda key: init(key, jnp.zeros(shape)), jax.random.key(0))


def parameters(model, shape=(2, 8, 8, 3)):
    """Maps names to shapes: {"layer1_0/conv1/kernel": (3, 3, 8, 8), ...}."""
    variables = abstract_init(model, shape)
    return {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}


def modules(model):
    return {name.rsplit("/", 1)[0] for name in parameters(model)}


def feature_shapes(model, size, channels=3):
    shape = (2, size, size, channels)
    apply = partial(model.apply, train=False, method="features")
    outputs = jax.eval_shape(
        apply, abstract_init(model, shape), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    return {name: value.shape[1:] for name, value in outputs.items()}


def output_shapes(model, shape):
    """The shape of the output of every layer."""
    apply = partial(model.apply, train=False, capture_intermediates=True, mutable=["intermediates"])
    _, state = jax.eval_shape(
        apply, abstract_init(model, shape), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    flat = flatten_dict(state["intermediates"], sep="/")
    return {
        name.removesuffix("/__call__"): value[0].shape
        for name, value in flat.items()
        if name.endswith("__call__") and name != "__call__"
    }


def block(kind, planes, stride, version="v1.5", **options):
    specs = conv_specs(kind, planes, stride, version, 1, 64)
    constructor = PreActivationBlock if version == "v2" else PostActivationBlock
    return constructor(specs, Conv, BatchNorm, **options)


def block_variables(module, x, last_scale=1.0):
    """Random kernels; fresh norms, but for the last one of the branch, whose scale is given."""
    rng, last = np.random.default_rng(3), f"bn{len(module.conv_specs)}"

    def fill(path, leaf):
        names = [key.key for key in path]
        if names[-1] == "kernel":
            return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        scale = last_scale if last in names else 1.0
        return jnp.full(leaf.shape, {"scale": scale, "var": 1.0}.get(names[-1], 0.0))

    return jax.tree_util.tree_map_with_path(fill, abstract_init(module, x.shape))


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("stem", ["imagenet", "deep", "cifar"])
def test_features_halve_rounding_up(stem, size):
    model = create_model("resnet18", stem=stem, stage_sizes=(1, 1, 1, 1))

    def side(halvings):
        return -(-size // 2**halvings)

    start = 0 if stem == "cifar" else 2
    wanted = {"stem": (side(start),) * 2 + (64,), "pooled": (512,)}
    for stage, channels in enumerate((64, 128, 256, 512)):
        wanted[f"layer{stage + 1}"] = (side(start + stage),) * 2 + (channels,)
    assert feature_shapes(model, size) == wanted


def test_shortcut_a_has_no_parameters():
    assert not [name for name in modules(tiny(shortcut="A")) if "downsample" in name]


def test_shortcut_b_projects_where_the_shape_changes():
    wanted = {"layer2_0/downsample_conv", "layer2_0/downsample_bn"}
    assert {name for name in modules(tiny(shortcut="B")) if "downsample" in name} == wanted


def test_shortcut_c_projects_everywhere():
    projected = {name for name in modules(tiny(shortcut="C")) if "downsample_conv" in name}
    assert projected == {f"layer{block}/downsample_conv" for block in ("1_0", "2_0", "2_1")}


@pytest.mark.parametrize("size", [6, 5])
def test_shortcut_a_subsamples_and_pads_with_zero_channels(size):
    module, x = block("basic", 8, 2, shortcut="A"), images(2, size, size, 4)
    y = module.apply(block_variables(module, x, last_scale=0), x, False)
    half = -(-size // 2)
    wanted = np.zeros((2, half, half, 8))
    for row in range(half):
        for column in range(half):
            wanted[:, row, column, 2:6] = x[:, 2 * row, 2 * column]
    np.testing.assert_array_equal(y, np.maximum(wanted, 0))


@pytest.mark.parametrize("size", [6, 5])
def test_avg_pool_shortcut_averages_the_pixels_in_each_window(size):
    """ResNet-D; at an odd size the last window is cut short."""
    module, x = block("basic", 3, 2, avg_pool_shortcut=True), images(2, size, size, 4)
    variables = block_variables(module, x, last_scale=0)
    half = -(-size // 2)
    pooled = np.empty((2, half, half, 4))
    for row in range(half):
        for column in range(half):
            window = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].astype(np.float64)
            pooled[:, row, column] = window.mean((1, 2))
    kernel = np.asarray(variables["params"]["downsample_conv"]["kernel"], np.float64)[0, 0]
    wanted = np.maximum(pooled @ kernel / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(module.apply(variables, x, False), wanted, rtol=1e-4, atol=1e-5)


def test_blur_pool_is_a_binomial_filter():
    """Zhang 2019: [1, 2, 1] / 4 in both directions, edges mirrored, every second pixel."""
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = [
        [np.einsum("nhwc,hw->nc", padded[:, i : i + 3, j : j + 3], weights) for j in range(0, 4, 2)]
        for i in range(0, 5, 2)
    ]
    expected = np.stack([np.stack(row, 1) for row in expected], 1)
    np.testing.assert_allclose(blur_pool(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("anti_alias", "size"), [("mean", 40), ("blur", 16)])
def test_anti_aliasing_refuses_sizes_it_cannot_halve(anti_alias, size):
    """A wrong size would broadcast against the shortcut without an error."""
    model = ResNet((1,) * 4, "basic", widths=(4, 4, 4, 8), anti_alias=anti_alias)
    x = jnp.zeros((1, size, size, 3))
    with pytest.raises(ValueError, match=f"anti_alias='{anti_alias}'"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))


def test_avg_pool_shortcut_changes_no_parameter():
    assert parameters(tiny(avg_pool_shortcut=True)) == parameters(tiny())


@pytest.mark.parametrize(
    ("version", "sides"), [("v1", (4, 4, 4)), ("v1.5", (8, 4, 4)), ("v2", (8, 4, 4))]
)
def test_bottleneck_strides_where_its_version_says(version, sides):
    shapes = output_shapes(tiny("bottleneck", version=version), (2, 8, 8, 3))
    assert tuple(shapes[f"layer2_0/conv{i}"][1] for i in (1, 2, 3)) == sides
    assert shapes["layer2_0/downsample_conv"][1:] == (4, 4, 64)


@pytest.mark.parametrize("version", ["v1", "v1.5", "v2"])
def test_basic_block_strides_on_its_first_convolution(version):
    shapes = output_shapes(tiny(version=version), (2, 8, 8, 3))
    assert [shapes[f"layer2_0/conv{i}"][1] for i in (1, 2)] == [4, 4]


def test_v1_and_v1_5_have_the_same_parameters():
    v1, v15 = (parameters(tiny("bottleneck", version=version)) for version in ("v1", "v1.5"))
    assert v1 == v15


def test_v2_normalises_last_and_not_after_the_stem():
    names = modules(tiny(version="v2"))
    assert "bn_last" in names and "bn1" not in names
    assert {"layer1_0/bn1", "layer2_0/downsample_conv"} <= names
    assert "layer2_0/downsample_bn" not in names
    assert "bn_last" not in modules(tiny()) and "bn1" in modules(tiny())


def test_v2_identity_passes_the_raw_input():
    """Without the branch the output of the block is its input, negative values included."""
    module, x = block("basic", 4, 1, "v2"), images(2, 5, 5, 4)
    variables = block_variables(module, x)
    variables["params"]["conv2"]["kernel"] *= 0
    np.testing.assert_array_equal(module.apply(variables, x, False), x)


def test_v2_projection_starts_from_the_first_activation():
    module, x = block("basic", 6, 1, "v2"), images(2, 5, 5, 4)
    variables = block_variables(module, x)
    variables["params"]["conv2"]["kernel"] *= 0
    kernel = np.asarray(variables["params"]["downsample_conv"]["kernel"], np.float64)[0, 0]
    wanted = np.maximum(x / np.sqrt(1 + 1e-5), 0) @ kernel
    np.testing.assert_allclose(module.apply(variables, x, False), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_plain_model_has_no_projection(version, shortcut):
    plain = modules(tiny(residual=False, version=version, shortcut=shortcut))
    assert plain == {
        name for name in modules(tiny(version=version, shortcut="B")) if "downsample" not in name
    }


def test_plain_block_is_its_branch_alone():
    module, x = block("basic", 4, 1, residual=False), images(2, 5, 5, 4)
    y = module.apply(block_variables(module, x, last_scale=0), x, False)
    np.testing.assert_array_equal(y, np.zeros_like(x))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("kind", "planes"), [("basic", 8), ("bottleneck", 2)])
@pytest.mark.parametrize("version", ["v1.5", "v2"])
def test_zero_init_residual_starts_as_the_identity(version, kind, planes, train):
    module = block(kind, planes, 1, version, zero_init_residual=True)
    x = np.abs(images(2, 4, 4, 8))
    variables = module.init(jax.random.key(0, impl="rbg"), x, False)
    np.testing.assert_array_equal(module.apply(variables, x, train), x)


def test_plain_model_ignores_zero_init_residual():
    """Its output would be zero, as there is no shortcut."""
    module, x = block("basic", 8, 1, residual=False, zero_init_residual=True), images(2, 4, 4, 8)
    params = module.init(jax.random.key(0, impl="rbg"), x, False)["params"]
    assert (params["bn2"]["scale"] == 1).all()


def test_deep_stem_is_three_small_convolutions():
    shapes = parameters(tiny(stem="deep", stem_width=64), (2, 32, 32, 3))
    assert [shapes[f"conv1_{i}/kernel"] for i in range(3)] == [
        (3, 3, 3, 32),
        (3, 3, 32, 32),
        (3, 3, 32, 64),
    ]
    assert shapes["bn1/scale"] == (64,) and "conv1/kernel" not in shapes


@pytest.mark.parametrize(("stem", "kernel"), [("imagenet", 7), ("cifar", 3)])
def test_stem_is_one_convolution(stem, kernel):
    shapes = parameters(tiny(stem=stem, stem_width=24))
    assert shapes["conv1/kernel"] == (kernel, kernel, 3, 24)


@pytest.mark.parametrize("channels", [1, 3, 12])
def test_input_channels_come_from_the_images(channels):
    shapes = parameters(tiny(), (2, 8, 8, channels))
    assert shapes["conv1/kernel"] == (3, 3, channels, 8)


def test_resnext_groups_its_3x3_convolutions():
    """Xie et al. 2017, table 1: conv2 of ResNeXt-50 (32x4d) is 128 wide."""
    shapes = parameters(create_model("resnext50_32x4d", stage_sizes=(1, 1, 1, 1)), (1, 32, 32, 3))
    assert [shapes[f"layer1_0/conv{i}/kernel"] for i in (1, 2, 3)] == [
        (1, 1, 64, 128),
        (3, 3, 4, 128),
        (1, 1, 128, 256),
    ]


def test_group_norm_model_has_no_statistics():
    variables = abstract_init(tiny(norm="group"))
    assert set(variables) == {"params"}
    assert parameters(tiny(norm="group")) == parameters(tiny())


def test_any_number_of_stages():
    model = ResNet((1,) * 5, "basic", widths=(4,) * 5, num_classes=2, stem="cifar")
    assert set(feature_shapes(model, 32)) == {"stem", "pooled"} | {f"layer{i}" for i in range(1, 6)}


def test_equal_models_hash_equal():
    """A compiled program is found again by the model."""
    one, other = (tiny("bottleneck", stem="deep", hidden=(3,)) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    assert one != one.clone(version="v2") and len({one, other, one.clone(version="v2")}) == 2


@pytest.mark.parametrize("norm", ["batch", "group", "folded"])
def test_layers_add_no_level_to_the_parameter_tree(norm):
    depths = {len(name.split("/")) for name in parameters(tiny(norm=norm, shortcut="C"))}
    assert depths == {2, 3}  # fc/kernel, layer1_0/conv1/kernel


def test_conv_pool_halves_before_the_blocks():
    model = create_model("resnet_mnist")
    assert model.stages == ("stem", "layer1", "layer2", "fc")
    wanted = {"stem": (14, 14, 16), "layer1": (14, 14, 16), "layer2": (7, 7, 32), "pooled": (1568,)}
    assert feature_shapes(model, 28, channels=1) == wanted
    blocks = {f"layer{i}_0/{name}" for i in (1, 2) for name in ("conv1", "bn1", "conv2", "bn2")}
    shapes = parameters(model, (2, 28, 28, 1))
    assert {name.rsplit("/", 1)[0] for name in shapes} == blocks | {
        *("conv1", "bn1", "conv2", "bn2", "fc")
    }
    assert shapes["conv1/kernel"] == (5, 5, 1, 16) and shapes["conv2/kernel"] == (3, 3, 16, 32)
