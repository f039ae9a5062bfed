"""``jax.export`` of the models: any batch and platform with XLA's own algorithms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import flax_resnet as fr
from flax_resnet.models import ResNet
from flax_resnet.models.lowerings import onednn

PLATFORMS = ("cpu", "cuda", "tpu")
TINY = {"stage_sizes": (1, 1), "widths": (8, 16), "num_classes": 5}
MODELS = {
    "basic": ResNet(block="basic", stem="imagenet", **TINY),
    "resnext": ResNet(block="bottleneck", stem="cifar", groups=4, width_per_group=32, **TINY),
    "resnet-d": ResNet(block="bottleneck", stem="deep", avg_pool_shortcut=True, **TINY),
    "shortcut A": ResNet(block="basic", stem="cifar", shortcut="A", **TINY),
    "v2": ResNet(block="bottleneck", stem="cifar", version="v2", **TINY),
    "group norm": ResNet(block="basic", stem="cifar", norm="group", **TINY),
    "hidden": ResNet(block="basic", stem="cifar", hidden=(6,), dropout=0.5, **TINY),
    "mnist": fr.create_model("resnet_mnist", widths=(8, 16), num_classes=5),
}


def images(size=16, batch=3):
    return jnp.asarray(np.random.default_rng(0).normal(size=(batch, size, size, 3)), jnp.float32)


def variables_of(model):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0, impl="rbg"), images())


def exported(model, variables, shape, train=False):
    def logits(variables, x):
        return model.apply(variables, x, train, mutable=["batch_stats"])[0]

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return export.export(jax.jit(logits), platforms=PLATFORMS)(variables, x)


def unknown_batch():
    return export.symbolic_shape("batch, 16, 16, 3")


def logits(model, variables, x):
    return jax.jit(partial(model.apply, train=False))(variables, x)


CASES = [*MODELS, "resnext reference", "basic folded", "v2 folded"]
QUICK = ("basic",)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in CASES]
)
def test_one_artefact_serves_any_batch_and_platform(name):
    name, _, change = name.partition(" ") if name not in MODELS else (name, "", "")
    model = MODELS[name].clone(conv_impl="reference" if change == "reference" else "auto")
    variables = variables_of(model)
    if change == "folded":
        model, variables = fr.fold_batch_norm(model, variables)
    artefact = exported(model, variables, unknown_batch())
    assert artefact.platforms == PLATFORMS
    assert "custom_call @flax_resnet" not in artefact.mlir_module()
    wanted = logits(model, variables, images())
    got = jax.jit(artefact.call)(variables, images())
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d"])
def test_named_models_are_exported_for_any_batch(name):
    model = fr.create_model(name, num_classes=10)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images())
    artefact = exported(model, variables, unknown_batch())
    assert artefact.out_avals[0].shape[1:] == (10,)


@pytest.mark.parametrize("train", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_reference_convolutions_are_exported_for_images_of_one_shape(train):
    model = MODELS["resnext"].clone(conv_impl="reference")
    variables = variables_of(model)
    artefact = exported(model, variables, (3, 16, 16, 3), train)
    apply = partial(model.apply, train=train, mutable=["batch_stats"])
    wanted, _ = jax.jit(apply)(variables, images())
    got = jax.jit(artefact.call)(variables, images())
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_the_automatic_choice_is_exported_or_refused_in_a_sentence(train):
    model = MODELS["resnext"]
    variables = variables_of(model)
    if onednn.is_available():
        with pytest.raises(
            NotImplementedError, match='create the model with conv_impl="reference"'
        ):
            exported(model, variables, (3, 16, 16, 3), train)
    else:
        assert exported(model, variables, (3, 16, 16, 3), train).platforms == PLATFORMS


def test_training_on_an_unknown_batch_is_refused_in_a_sentence():
    model = MODELS["basic"]
    with pytest.raises(ValueError, match="batch is of unknown size: export with train=False"):
        exported(model, variables_of(model), unknown_batch(), train=True)


def test_the_artefact_is_serialised():
    pytest.importorskip("flatbuffers")
    model = MODELS["resnext"].clone(conv_impl="reference")
    variables = variables_of(model)
    artefact = export.deserialize(exported(model, variables, unknown_batch()).serialize())
    got = jax.jit(artefact.call)(variables, images())
    np.testing.assert_allclose(got, logits(model, variables, images()), rtol=1e-4, atol=1e-5)
