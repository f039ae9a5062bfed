"""Folded batch norm computes the same function as batch norm with running statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import flax_resnet as fr
from flax_resnet.models import ResNet, create_model
from flax_resnet.models.lowerings import Convolution, choose

TINY = {"stage_sizes": (1, 1), "widths": (4, 8), "num_classes": 5, "stem": "cifar"}
IMAGES = np.random.default_rng(0).normal(size=(2, 12, 12, 3))

MODELS = {
    "basic": ResNet(block="basic", **TINY),
    "bottleneck": ResNet(block="bottleneck", **TINY),
    "v1": ResNet(block="bottleneck", version="v1", **TINY),
    "resnext": ResNet(block="bottleneck", groups=4, width_per_group=16, **TINY),
    "wide": ResNet(block="bottleneck", width_per_group=128, **TINY),
    "imagenet stem": ResNet(block="basic", **TINY | {"stem": "imagenet"}),
    "resnet-d": ResNet(block="bottleneck", avg_pool_shortcut=True, **TINY | {"stem": "deep"}),
    "shortcut A": ResNet(block="basic", shortcut="A", **TINY),
    "shortcut C": ResNet(block="basic", shortcut="C", **TINY),
    "plain": ResNet(block="basic", residual=False, **TINY),
    "dropout": ResNet(
        block="basic", dropout=0.3, block_dropout=0.2, stochastic_depth=0.5, remat=True, **TINY
    ),
    "epsilon": ResNet(block="basic", epsilon=0.1, **TINY),
    "v2": ResNet(block="bottleneck", version="v2", **TINY),
    "v2 deep": ResNet(block="basic", version="v2", **TINY | {"stem": "deep"}),
    "wrn": ResNet(block="basic", version="v2", stem_width=2, block_dropout=0.3, **TINY),
    "eca and blur": ResNet(block="basic", attention="eca", anti_alias="blur", **TINY),
    "resnet-rs": ResNet(
        block="bottleneck", attention="se", **TINY | {"stem": "deep", "stem_pool": "conv"}
    ),
    "standardized": ResNet(block="basic", attention="se", standardized_kernels=True, **TINY),
    "standardized v2": ResNet(block="basic", version="v2", standardized_kernels=True, **TINY),
    "mnist": create_model("resnet_mnist", widths=(4, 8), num_classes=5),
}


QUICK = ("basic", "resnext", "plain", "v2", "mnist")


def random_variables(model, dtype=np.float64):
    """Random variables of sensible sizes, with statistics far from the initial 0 and 1."""
    rng = np.random.default_rng(1)
    init = partial(model.init, train=False)
    abstract = jax.eval_shape(lambda key: init(key, jnp.asarray(IMAGES)), jax.random.key(0))

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), dtype)
        fan_in = np.prod(leaf.shape[:-1])
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in), dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract)


def logits(model, variables, images):
    return jax.jit(partial(model.apply, train=False))(variables, images)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in MODELS]
)
def test_folded_logits_are_the_same_in_float64(name):
    with jax.enable_x64(True):
        model = MODELS[name].clone(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = random_variables(model)
        folded, fewer = fr.fold_batch_norm(model, variables)
        wanted = logits(model, variables, jnp.asarray(IMAGES))
        got = logits(folded, fewer, jnp.asarray(IMAGES))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-11 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("name", [pytest.param("resnet-d", marks=pytest.mark.slow), "v2"])
def test_folded_logits_are_the_same_in_float32(name):
    variables = random_variables(MODELS[name], np.float32)
    folded, fewer = fr.fold_batch_norm(MODELS[name], variables)
    wanted = logits(MODELS[name], variables, IMAGES.astype(np.float32))
    got = logits(folded, fewer, IMAGES.astype(np.float32))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("name", MODELS)
def test_folded_variables_have_the_structure_of_the_folded_model(name):
    model = MODELS[name]
    variables = random_variables(model, np.float32)
    before = flatten_dict(variables, sep="/")
    folded, fewer = fr.fold_batch_norm(model, variables)
    traced = jax.eval_shape(lambda variables: fr.fold_batch_norm(model, variables)[1], variables)
    assert folded.norm == "folded"
    wanted = jax.eval_shape(
        lambda key: folded.init(key, jnp.zeros(IMAGES.shape), train=False), jax.random.key(0)
    )
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (fewer, traced, wanted))
    assert shapes[0] == shapes[1] == shapes[2]
    layers = {path.split("/")[-2] for path in flatten_dict(fewer, sep="/")}
    if model.version != "v2":
        assert not any("bn" in layer for layer in layers)
    for path, leaf in flatten_dict(variables, sep="/").items():
        assert leaf is before[path]


def test_models_without_batch_norm_are_returned_unchanged():
    group = ResNet(block="basic", norm="group", **TINY)
    variables = random_variables(group, np.float32)
    for model in (group, MODELS["basic"].clone(norm="folded")):
        assert fr.fold_batch_norm(model, variables) == (model, variables)
    with pytest.raises(ValueError, match="norm='layer'"):
        create_model("resnet_mnist", norm="layer")


@pytest.mark.parametrize("conv_impl", ["auto", "reference"])
@pytest.mark.parametrize("name", ["basic", "resnext", "imagenet stem", "resnet-d", "plain", "v2"])
def test_packed_kernels_change_nothing(name, conv_impl):
    model = MODELS[name].clone(conv_impl=conv_impl)
    images = jnp.asarray(IMAGES, jnp.float32)
    unfolded = random_variables(model, np.float32)
    folded, variables = fr.fold_batch_norm(model, unfolded)
    packed = fr.pack_kernels(folded, variables, jax.ShapeDtypeStruct(images.shape, images.dtype))
    by_onednn = choose(Convolution(images, jnp.zeros((1, 1, 3, 4))), conv_impl).family == "onednn"
    assert ("packed" in packed) == (by_onednn and name != "v2")
    if "packed" not in packed:
        jax.tree.map(np.testing.assert_array_equal, packed, variables)
        return
    wanted = logits(model, unfolded, images)
    tolerance = 1e-5 * float(jnp.abs(wanted).max())
    np.testing.assert_allclose(logits(folded, packed, images), wanted, atol=tolerance)
    assert logits(folded, variables, images[:1]).shape == (1, 5)


def test_only_folded_models_are_packed():
    model = MODELS["basic"]
    variables = random_variables(model, np.float32)
    assert fr.pack_kernels(model, variables, jnp.asarray(IMAGES, jnp.float32)) is variables


@pytest.mark.slow
def test_folded_models_are_differentiable():
    model = MODELS["bottleneck"]
    images = jnp.asarray(IMAGES, jnp.float32)
    variables = random_variables(model, np.float32)

    def gradients(model, variables):
        loss = lambda x: jnp.sum(jnp.sin(model.apply(variables, x, train=False)))  # noqa: E731
        return jax.jit(jax.grad(loss))(images)

    wanted = gradients(model, variables)
    tolerance = 1e-4 * float(jnp.abs(wanted).max())
    folded, variables = fr.fold_batch_norm(model, variables)
    np.testing.assert_allclose(gradients(folded, variables), wanted, atol=tolerance)
    variables = fr.pack_kernels(folded, variables, images)
    np.testing.assert_allclose(gradients(folded, variables), wanted, atol=tolerance)
