"""Programs for GPU and TPU, lowered on a CPU machine without running them."""

import re
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

import flax_resnet as fr

pytestmark = pytest.mark.slow

MODELS = {"resnet50": 1, "resnext50_32x4d": 32}  # name -> groups of the 3x3 convolutions
STAGE_SIZES = (2, 2, 2, 2)  # the other blocks of a stage are as its second
FORWARD = 1 + 3 * 8 + 4  # convolutions of both models: stem, blocks and shortcuts
GROUPED = 8


def train_step(name, dtype):
    # While a program is traced, "auto" would choose the algorithms of the CPU that traces it.
    options = {"stage_sizes": STAGE_SIZES, "conv_impl": "reference"}
    model = fr.create_model(name, dtype=dtype, **options)
    return fr.TrainStep(model, optax.sgd(0.1, momentum=0.9))


def abstract_state_and_batch(step, batch_size):
    image = jax.ShapeDtypeStruct((batch_size, 224, 224, 3), jnp.float32)
    state = jax.eval_shape(step.init, jax.random.key(0), image)
    return state, {"image": image, "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}


def convolutions(stablehlo):
    """Feature groups, batch groups and operand dtypes of each convolution of a program."""
    pattern = (
        r"stablehlo\.convolution\(.*?batch_group_count = (\d+).*?feature_group_count = (\d+)"
        r".*?: \(tensor<[\dx]*x(\w+)>, tensor<[\dx]*x(\w+)>\)"
    )
    return [
        (int(features), int(batch), left, right)
        for batch, features, left, right in re.findall(pattern, stablehlo)
    ]


def custom_calls(stablehlo):
    return set(re.findall(r"custom_call @(\w+)", stablehlo))


def programs(function, *arguments):
    """The program of a function for each platform; it is traced once."""
    traced = jax.jit(function).trace(*arguments)
    return [traced.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "tpu")]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "operands"), [(jnp.float32, "f32"), (jnp.bfloat16, "bf16")])
def test_steps_and_logits_are_plain_convolutions(name, dtype, operands):
    step, groups = train_step(name, dtype), MODELS[name]
    state, batch = abstract_state_and_batch(step, 8)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = partial(step.model.apply, train=False)
    for program in programs(logits, variables, batch["image"]):
        found = convolutions(program)
        assert len(found) == FORWARD
        assert Counter(feature for feature, *_ in found)[groups] >= GROUPED
        assert {dtype for *_, left, right in found for dtype in (left, right)} == {operands}
        assert not custom_calls(program)

    for program in programs(step, state, batch):
        found = convolutions(program)
        # Each has two gradients; that of the images is not computed.
        assert len(found) == 3 * FORWARD - 1
        grouped = [max(feature, of_batch) for feature, of_batch, *_ in found]
        assert Counter(grouped)[groups] >= 3 * GROUPED
        assert {dtype for *_, left, right in found for dtype in (left, right)} == {operands}
        assert not custom_calls(program) - {"cu_threefry2x32_ffi"}
