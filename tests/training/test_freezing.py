"""What does not train: its bits, its part in the optimiser, and its cost."""

import re

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import flax_resnet as fr

BATCH = {
    "image": np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32),
    "label": np.arange(8, dtype=np.int32) % 5,
}


def head_only(path):
    return path[0] == "fc"


def last_stage(path):
    return path[0] == "fc" or path[0].startswith("layer3")


def make(trainable, tx=None, conv_impl="auto", **options):
    """A step and its first state."""
    step = fr.TrainStep(
        fr.create_model("resnet8", num_classes=5, conv_impl=conv_impl),
        # Decay on everything, so that a frozen leaf would shrink if it took part.
        tx or optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, 0.9)),
        trainable=trainable,
        **options,
    )
    return step, step.init(jax.random.key(0), BATCH["image"])


def equal_to_the_bit(before, after):
    return {
        path: leaf.tobytes() == np.asarray(flatten_dict(after)[path]).tobytes()
        for path, leaf in flatten_dict(jax.tree.map(np.asarray, before)).items()
    }


@pytest.fixture(scope="module")
def trained():
    """The state before and after three steps that train the last stage and the classifier."""
    step, before = make(last_stage, ema_decay=0.5)
    jitted, after = jax.jit(step), before
    for _ in range(3):
        after, _ = jitted(after, BATCH)
    return before, after


@pytest.mark.slow
@pytest.mark.parametrize("tree", [lambda state: state.params, lambda state: state.ema["params"]])
def test_frozen_parameters_and_their_average_keep_their_bits(trained, tree):
    before, after = map(tree, trained)
    for path, equal in equal_to_the_bit(before, after).items():
        assert equal != last_stage(path), path


def test_the_optimiser_holds_nothing_of_what_is_frozen(trained):
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(trained[1].opt_state))
    expected = [
        leaf.shape for path, leaf in flatten_dict(trained[1].params).items() if last_stage(path)
    ]
    assert shapes == sorted(expected)


@pytest.mark.slow
def test_training_a_stage_moves_it_as_training_all_stages_does():
    whole, part = (
        jax.jit(step)(state, BATCH)[0]
        for step, state in (make(None, optax.sgd(0.1)), make(last_stage, optax.sgd(0.1)))
    )
    for name in ("layer3_0", "fc"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            part.params[name],
            whole.params[name],
        )


def convolutions(trainable):
    """How many convolutions a step computes."""
    step, state = make(trainable, conv_impl="reference")
    text = str(jax.make_jaxpr(step)(state, BATCH))
    return len(re.findall(r"= conv_general_dilated\[", text))


def test_frozen_layers_have_no_backward_pass():
    # resnet8: conv1 and two for each of three blocks; shortcuts of option A hold none.
    assert convolutions(head_only) == 7
    # Of the last block's two the kernels' gradients, and the input's of the second.
    assert convolutions(last_stage) == 7 + 3
    # Everywhere both, save the gradient of the images.
    assert convolutions(None) == 7 + 13


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        make(lambda path: False)
