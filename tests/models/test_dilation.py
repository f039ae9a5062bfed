"""Dilated stages, the strides of stages, and features of chosen ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.models import ResNet
from flax_resnet.models.lowerings import Convolution, convolve

IMAGES = np.random.default_rng(0).standard_normal((2, 33, 49, 3)).astype(np.float32)


def make(**options):
    common = {"widths": (8, 12, 16, 24), "num_classes": 5, "conv_impl": "reference"}
    return ResNet((1, 1, 2, 2), "bottleneck", **common | options)


@pytest.fixture(scope="module")
def variables():
    """Variables whose running statistics are not the initial ones."""
    shapes = jax.eval_shape(lambda: make().init(jax.random.key(0), IMAGES, train=False))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype(np.float32), shapes)


def loop(x, kernel, dilation):
    """A padded dilated convolution by its definition, in float64."""
    out = np.zeros((*x.shape[:3], kernel.shape[3]))
    size = kernel.shape[0] // 2 * dilation
    padded = np.pad(x.astype(np.float64), ((0, 0), (size, size), (size, size), (0, 0)))
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            rows = padded[:, i * dilation :, j * dilation :][:, : x.shape[1], : x.shape[2]]
            out += np.einsum("nhwc,cf->nhwf", rows, kernel[i, j].astype(np.float64))
    return out


@pytest.mark.parametrize("conv_impl", ["auto", "jax", "reference"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_dilated_convolution(conv_impl, groups):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 7, 6, 4)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 4 // groups, 6)).astype(np.float32)
    conv = Convolution(jnp.asarray(x), jnp.asarray(kernel), 1, 2, groups, dilation=2)
    dense = np.zeros((3, 3, 4, 6))
    for group in range(groups):
        inputs = slice(group * 4 // groups, (group + 1) * 4 // groups)
        outputs = slice(group * 6 // groups, (group + 1) * 6 // groups)
        dense[:, :, inputs, outputs] = kernel[..., outputs]
    y = convolve(conv, conv_impl)
    assert y.shape[1:3] == conv.out_size
    np.testing.assert_allclose(y, loop(x, dense, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({}, [4, 4, 8, 16, 32]),
        ({"output_stride": 32}, [4, 4, 8, 16, 32]),
        ({"output_stride": 16}, [4, 4, 8, 16, 16]),
        ({"output_stride": 8}, [4, 4, 8, 8, 8]),
        ({"stem": "cifar", "output_stride": 2}, [1, 1, 2, 2, 2]),
        ({"stem": "cifar", "stem_pool": "max"}, [2, 2, 4, 8, 16]),
        ({"stem_pool": "none"}, [2, 2, 4, 8, 16]),
        ({"stem": "deep", "stem_pool": "conv"}, [4, 4, 8, 16, 32]),
        ({"anti_alias": "mean"}, [4, 4, 8, 16, 32]),
    ],
)
def test_strides_are_those_of_the_outputs(variables, options, strides):
    model = make(**options)
    assert [*model.stage_strides.values()] == strides
    images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    fresh = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(images.shape)))
    outputs = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), fresh, images)
    for name, stride in model.stage_strides.items():
        assert outputs[name].shape[1:3] == (64 // stride, 96 // stride)


def test_output_stride_keeps_the_parameters(variables):
    shapes = jax.eval_shape(lambda: make(output_stride=8).init(jax.random.key(0), IMAGES))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, dict(shapes), variables)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 64}, "output_stride=64 is not one of 4, 8, 16, 32"),
        ({"output_stride": 2}, "output_stride=2 is not one of"),
        ({"output_stride": 8, "downsampling": "conv_pool"}, "downsampling"),
        ({"output_stride": 8, "anti_alias": "blur"}, "anti_alias"),
    ],
)
def test_output_strides_that_no_stage_has(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def features(model, variables, **options):
    apply = jax.jit(lambda v, x: model.apply(v, x, method="features", **options))
    return apply(variables, IMAGES)


def test_features_of_chosen_stages(variables):
    everything = features(make(), variables)
    # Later stages do not run: their parameters are not needed.
    below = {
        kind: {layer: value for layer, value in tree.items() if not layer.startswith("layer4")}
        for kind, tree in variables.items()
    }
    chosen = features(make(), below, stages=("layer3", "layer2"))
    assert list(chosen) == ["layer2", "layer3"]
    for name, y in chosen.items():
        np.testing.assert_allclose(y, everything[name], rtol=1e-6)


def test_features_of_a_stage_that_is_not_there(variables):
    with pytest.raises(ValueError, match="no output is named 'layer5'; known: stem, layer1"):
        make().apply(variables, IMAGES, stages=("layer5",), method="features")


def test_folding_keeps_dilated_features(variables):
    model = make(output_stride=8)
    expected = features(model, variables)["pooled"]
    folded = features(*fr.fold_batch_norm(model, variables))["pooled"]
    np.testing.assert_allclose(folded, expected, rtol=1e-4)


# --- next to torchvision and timm, where they are installed ------------------


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    pytest.importorskip("tests.weights.torchvision_import")
    return torch


def randomize(torch, model):
    """Give batch norms random values and return the state dict as NumPy arrays."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.8)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def compare(torch, theirs, model, of_last_stage):
    """The last stage's features agree to 1e-5 of the largest."""
    variables = fr.from_torchvision(randomize(torch, theirs.eval()), model)
    with torch.no_grad():
        expected = of_last_stage(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())).numpy()
    apply = jax.jit(lambda v, x: model.apply(v, x, stages=("layer4",), method="features"))
    ours = np.asarray(apply(variables, IMAGES)["layer4"]).transpose(0, 3, 1, 2)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("groups", [{}, {"groups": 32, "width_per_group": 4}])
def test_next_to_torchvision(torch, groups, output_stride):
    from torchvision.models import resnet
    from torchvision.models._utils import IntermediateLayerGetter

    sizes = (1, 2, 2, 2)
    replaced = [False, output_stride == 8, True]
    options = {"replace_stride_with_dilation": replaced} | groups
    theirs = resnet.ResNet(resnet.Bottleneck, list(sizes), **options)
    layers = IntermediateLayerGetter(theirs, {"layer4": "out"})
    model = ResNet(sizes, "bottleneck", output_stride=output_stride, **groups)
    compare(torch, theirs, model, lambda x: layers(x)["out"])


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("block", ["basic", "bottleneck", "resnet-d"])
def test_next_to_timm(torch, block, output_stride):
    resnet = pytest.importorskip("timm.models.resnet")
    sizes = (1, 2, 1, 2)
    layers = {"block": resnet.BasicBlock if block == "basic" else resnet.Bottleneck}
    ours = {"block": "basic" if block == "basic" else "bottleneck"}
    if block == "resnet-d":
        layers |= {"stem_type": "deep", "stem_width": 32, "avg_down": True}
        ours |= {"stem": "deep", "avg_pool_shortcut": True}
    theirs = resnet.ResNet(layers=sizes, output_stride=output_stride, **layers)
    model = ResNet(sizes, output_stride=output_stride, **ours)
    compare(torch, theirs, model, theirs.forward_features)
