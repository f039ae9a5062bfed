"""Costs of the models against published ones: torchvision's table, the papers' parameter counts."""

import gc
from functools import cache
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from flax_resnet.models import create_model, default_image_shape, summarize
from tests.tiny_net import tiny_model

# torchvision.models: `num_params` and `_ops` (GMACs at 224x224) of its weights' metadata.
TORCHVISION = {
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
}
# Published counts for CIFAR-10: He et al. 2015a, Zagoruyko & Komodakis 2016, Xie et al. 2017 and
# their PyTorch reproductions.
CIFAR = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "wrn28_10": 36_479_194,
    "resnext29_8x64d": 34_426_698,
}
# The other summaries take seconds each; they have the parameters of those models too.
SHALLOW = ("resnet18", "resnet50")
PARAMETERS = {name: TORCHVISION[name][0] for name in SHALLOW} | CIFAR


@cache
def summary_of(name):
    """The summary with XLA's own convolutions, which are traced quickly."""
    return summarize(create_model(name, conv_impl="reference"))


@cache
def costs_of(name):
    """The same without the bytes of activations, whose estimate traces a backward pass."""
    with mock.patch("flax_resnet.models.summary._activation_bytes", return_value=0):
        return summarize(create_model(name, conv_impl="reference"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] not in (*SHALLOW, "resnet20")))
        for pair in PARAMETERS.items()
    ],
)
def test_parameter_count_is_the_published_one(name, parameters):
    model = create_model(name, conv_impl="reference")  # quickly traced
    image = jnp.zeros((1, *default_image_shape(model)))
    variables = jax.eval_shape(lambda key: model.init(key, image), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in SHALLOW)) for name in TORCHVISION],
)
def test_summary_agrees_with_torchvision(name):
    parameters, gmacs = TORCHVISION[name]
    summary = costs_of(name)
    assert summary.parameters == parameters
    assert summary.macs / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_stages_of_resnet50_are_those_of_the_paper():
    summary = costs_of("resnet50")
    assert [(stage.name, stage.output_shape) for stage in summary.stages] == [
        ("stem", (56, 56, 64)),
        ("layer1", (56, 56, 256)),
        ("layer2", (28, 28, 512)),
        ("layer3", (14, 14, 1024)),
        ("layer4", (7, 7, 2048)),
        ("fc", (1000,)),
    ]
    # 7x7 kernel and batch norm; weights and bias of the classifier.
    assert summary.stages[0].parameters == 7 * 7 * 3 * 64 + 2 * 64
    assert summary.stages[-1].parameters == 2048 * 1000 + 1000
    assert sum(stage.parameters for stage in summary.stages) == summary.parameters


def test_weight_bytes_hold_parameters_and_running_statistics():
    summary = summary_of("resnet20")
    normalised = 16 + 3 * 2 * (16 + 32 + 64)  # channels of the 19 batch norms
    assert summary.weight_bytes == 4 * (269_722 + 2 * normalised)


def test_macs_grow_with_the_image():
    small, large = summary_of("resnet8"), summarize(create_model("resnet8"), (64, 64, 3))
    classifier = 64 * 10
    assert large.macs - classifier == 4 * (small.macs - classifier)
    assert large.activation_bytes > 3 * small.activation_bytes
    assert large.parameters == small.parameters


def test_remat_keeps_fewer_activations():
    remat = summarize(create_model("resnet8", remat=True))
    assert remat.activation_bytes < summary_of("resnet8").activation_bytes


def test_one_image_is_not_divided_into_groups_of_batch_norm():
    """A dry run of a model with them failed."""
    model = tiny_model(conv_impl="reference")
    grouped = model.clone(batch_norm_groups=4, axis_name="devices")
    assert summarize(grouped, (8, 8, 3)) == summarize(model, (8, 8, 3))


@pytest.mark.slow
def test_a_summary_leaves_no_program_behind():
    """Of each run in a process, JAX kept the whole program of the estimate of activations."""

    def objects_after_a_summary():
        summarize(create_model("resnet8"))
        gc.collect()
        return len(gc.get_objects())

    first, *_, last = [objects_after_a_summary() for _ in range(4)]
    assert last - first < 500


@pytest.mark.parametrize(
    ("name", "shape"),
    [("resnet18", (224, 224, 3)), ("resnet20", (32, 32, 3)), ("resnet_mnist", (28, 28, 1))],
)
def test_default_image_is_the_data_sets(name, shape):
    assert default_image_shape(create_model(name)) == shape


def test_final_norm_of_v2_belongs_to_the_last_stage():
    stem = summarize(create_model("resnet11_v2")).stages[0]
    assert stem.parameters == 3 * 3 * 3 * 16


def test_second_convolution_of_the_mnist_model_belongs_to_layer2():
    stem = summarize(create_model("resnet_mnist")).stages[0]
    assert stem.parameters == 5 * 5 * 16 + 2 * 16


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other backends use XLA only")
def test_algorithms_are_counted_by_the_models_conv_impl():
    """The stem, four bottlenecks of three convolutions and their four shortcuts."""
    shallow = {"stage_sizes": (1, 1, 1, 1)}
    reference = summarize(create_model("resnet50", conv_impl="reference", **shallow)).lowerings
    assert reference == {"XLA": 17}
    chosen = summarize(create_model("resnext50_32x4d", conv_impl="jax", **shallow)).lowerings
    assert chosen["matrix product"] == 12
    # One image's maps of 28x28 pixels and less are small ones.
    assert chosen["block-diagonal convolutions"] == 1
    assert chosen["batched matrix product"] == 3
    assert sum(chosen.values()) == 17


@pytest.mark.parametrize(("stage", "shape"), [("layer2", (8, 8, 16)), ("fc", (64,))])
def test_a_model_that_starts_at_a_stage_has_that_and_later_ones(stage, shape):
    model = create_model("resnet8", conv_impl="reference")
    whole = {stage.name: stage for stage in summarize(model, (8, 8, 3)).stages}
    later = model.clone(start_stage=stage)
    summary = summarize(later, shape)
    assert summary.stages == tuple(whole.values())[model.stages.index(stage) :]
    with pytest.raises(ValueError, match=f"starts at {stage}: give image_shape"):
        summarize(later)
