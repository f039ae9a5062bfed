"""The stages of a model: frozen before one, started at one, a head of more layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_resnet.models import ResNet, create_model, stage_of

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
STAGES = ("stem", "layer1", "layer2", "layer3", "fc")


@pytest.fixture(scope="module")
def variables():
    """Variables of a pre-activation model, with running statistics unlike the initial ones."""
    model = make()
    fresh = jax.jit(lambda: model.init(jax.random.key(0), IMAGES, train=False))()
    statistics = jax.tree.map(lambda leaf: leaf + 0.1, fresh["batch_stats"])
    return {"params": fresh["params"], "batch_stats": statistics}


def make(**options):
    common = {"widths": (8, 8, 8), "num_classes": 5, "stem": "cifar", "version": "v2"}
    return ResNet((1, 1, 1), "basic", **common | options)


def train(model, variables, images=IMAGES):
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
    return apply(variables, images)


def layers_of(stage):
    return {"stem": ("conv1",), "layer3": ("layer3_0", "bn_last")}.get(stage, (f"{stage}_0",))


@pytest.mark.parametrize("first", STAGES)
def test_stages_before_the_first_that_trains_keep_their_statistics(variables, first):
    _, new = train(make(freeze_before=first), variables)
    for index, stage in enumerate(STAGES[1:-1], start=1):
        for layer in layers_of(stage):
            kept = jax.tree.map(
                lambda a, b: bool((a == b).all()),
                variables["batch_stats"][layer],
                new["batch_stats"][layer],
            )
            assert set(jax.tree.leaves(kept)) == {index < STAGES.index(first)}, layer


def test_frozen_stages_run_as_in_evaluation(variables):
    logits, _ = train(make(freeze_before="fc", stochastic_depth=0.9), variables)
    expected = make().apply(variables, IMAGES, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_model_started_at_a_stage_takes_its_input(variables, stage):
    model = make(freeze_before=stage)
    outputs = model.apply(variables, IMAGES, method="features")
    before = "pooled" if stage == "fc" else STAGES[STAGES.index(stage) - 1]
    logits, new = train(model, variables)
    upper_logits, upper = train(model.clone(start_stage=stage), variables, outputs[before])
    np.testing.assert_allclose(upper_logits, logits, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), upper, new)


def test_hidden_layers_precede_the_classifier(variables):
    model = make(hidden=(6, 7))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))["params"]
    shapes = {name: params[name]["kernel"].shape for name in ("fc_hidden_0", "fc_hidden_1", "fc")}
    assert shapes == {"fc_hidden_0": (8, 6), "fc_hidden_1": (6, 7), "fc": (7, 5)}
    rng = np.random.default_rng(1)
    head = {
        name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
        for name, shape in shapes.items()
    }
    y = np.asarray(make().apply(variables, IMAGES, method="features")["pooled"], np.float64)
    for name in ("fc_hidden_0", "fc_hidden_1"):
        y = np.maximum(y @ head[name]["kernel"] + head[name]["bias"], 0)
    expected = y @ head["fc"]["kernel"] + head["fc"]["bias"]
    head = jax.tree.map(jnp.float32, head)
    got = model.apply({**variables, "params": variables["params"] | head}, IMAGES)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("option", ["freeze_before", "start_stage"])
def test_an_unknown_stage_is_an_error(option):
    with pytest.raises(
        ValueError, match="layer4' is not a stage: stem, layer1, layer2, layer3, fc"
    ):
        create_model("resnet8", **{option: "layer4"})


def test_one_output_is_named_by_a_text(variables):
    features = make().apply(variables, IMAGES, stages="layer1", method="features")
    (name,) = features
    assert name == "layer1"


def test_a_layer_belongs_to_the_stage_of_its_whole_number():
    """With ten stages, conv10 precedes the blocks of the last one."""
    layers = ("conv1", "bn1", "conv1_0", "bn1_pool", "conv10", "bn10", "layer10_0", "bn_last")
    stages = ["stem"] * 4 + ["layer10"] * 4
    assert [stage_of(layer, "layer10") for layer in layers] == stages
