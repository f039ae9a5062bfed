"""The pure steps, compared with NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_resnet as fr
from flax_resnet.data import Augmentation, Mixing, Preprocessing
from tests.tiny_net import tiny_model

PREPROCESS = Preprocessing((0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
        "label": rng.integers(0, 10, 8).astype(np.int32),
    }


def make(batch, tx=None, preprocess=PREPROCESS, model=None, **options):
    """A step and its first state."""
    net = tiny_model(**(model or {}))
    step = fr.TrainStep(net, tx or optax.sgd(0.1), preprocess=preprocess, **options)
    return step, step.init(jax.random.key(0), jnp.asarray(batch["image"]))


def test_training_lowers_the_loss(batch):
    step, state = make(batch)
    jitted = jax.jit(step)
    losses = []
    for _ in range(40):
        state, metrics = jitted(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 40


def test_shard_map_on_a_lone_device_is_jit(batch):
    step, state = make(batch)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    mapped = jax.shard_map(
        lambda state, batch: step(state, batch, "data"),
        mesh=mesh,
        in_specs=(whole, rows),
        out_specs=whole,
    )
    ours, theirs = jax.jit(mapped)(state, batch), jax.jit(step)(state, batch)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_evaluation_sums_agree_with_numpy(batch):
    step, state = make(batch)
    images = (batch["image"] / 255 - 0.5) / 0.25
    logits = np.asarray(
        step.model.apply(state.eval_variables, images.astype(np.float32), train=False), np.float64
    )
    labels = batch["label"]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), labels]
    rank = (logits > logits[np.arange(8), labels][:, None]).sum(1)
    sums = jax.jit(step.evaluate)(state, batch)
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)
    assert float(sums["top1"]) == (rank == 0).sum()
    assert float(sums["top5"]) == (rank < 5).sum()
    assert float(sums["count"]) == 8


def test_masked_examples_do_not_count_whatever_they_hold(batch):
    floats = batch | {"image": batch["image"].astype(np.float32) / 255}
    step, state = make(floats, preprocess=None)
    evaluate = jax.jit(step.evaluate)
    whole = evaluate(state, {name: value[:5] for name, value in floats.items()})
    spoilt = floats["image"].copy()
    spoilt[5:] = np.nan
    masked = evaluate(state, floats | {"image": spoilt, "mask": np.arange(8) < 5})
    for name in whole:
        np.testing.assert_allclose(masked[name], whole[name], rtol=1e-6)


def test_top5_counts_every_example_where_there_are_fewer_than_five_classes(batch):
    batch = batch | {"label": batch["label"] % 3}
    step, state = make(batch, model={"num_classes": 3})
    assert float(jax.jit(step.evaluate)(state, batch)["top5"]) == 8


def test_label_smoothing_is_the_papers(batch):
    smoothing = 0.1
    losses = {}
    for share in (0.0, smoothing):
        # One step of plain SGD moves the classifier's bias by -rate * mean(softmax - target).
        step, state = make(batch, tx=optax.sgd(1.0), label_smoothing=share)
        after, _ = jax.jit(step)(state, batch)
        losses[share] = np.asarray(state.params["fc"]["bias"] - after.params["fc"]["bias"])
    one_hot = np.eye(10)[batch["label"]]
    smooth = one_hot * (1 - smoothing) + smoothing / 10
    expected = (one_hot - smooth).mean(0)
    np.testing.assert_allclose(losses[smoothing] - losses[0.0], expected, atol=1e-6)


def test_integer_images_are_mixed_too(batch):
    """Their targets were integers, which the loss does not take."""
    step, state = make(batch, preprocess=None, mix=Mixing(mixup_alpha=1.0))
    _, sums = jax.jit(step)(state, batch)
    assert np.isfinite(sums["loss"]) and float(sums["count"]) == 8


def test_mixed_images_and_targets_reach_the_loss(batch):
    """A mixture that turns the images round and asks for fixed targets."""
    wanted = np.random.default_rng(1).dirichlet(np.ones(10), 8)

    def mix(key, images, targets, axis_name):
        assert targets.shape == (8, 10)
        return images[::-1], jnp.asarray(wanted, jnp.float32)

    step, state = make(batch, tx=optax.sgd(1.0), mix=mix)
    after, _ = jax.jit(step)(state, batch)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits, _ = step.model.apply(
        variables, PREPROCESS(batch["image"])[::-1], train=True, mutable=["batch_stats"]
    )
    # One step of plain SGD moves the classifier's bias by -rate * mean(softmax - target).
    moved = state.params["fc"]["bias"] - after.params["fc"]["bias"]
    np.testing.assert_allclose(moved, (jax.nn.softmax(logits) - wanted).mean(0), atol=1e-6)


def test_ema_is_the_running_average_of_weights_and_statistics(batch):
    step, state = make(batch, ema_decay=0.75)
    jitted = jax.jit(step)
    expected = {"params": state.params, "batch_stats": state.batch_stats}
    for _ in range(3):
        state, _ = jitted(state, batch)
        new = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda old, now: 0.75 * old + 0.25 * now, expected, new)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected
    )
    assert state.eval_variables["params"] is state.ema["params"]


def test_the_same_step_gives_the_same_augmentation_and_another_step_another(batch):
    step, state = make(batch, tx=optax.sgd(0.0), augment=Augmentation(2, True))
    jitted = jax.jit(step)
    first, metrics = jitted(state, batch)
    _, again = jitted(state, batch)
    _, later = jitted(first, batch)
    assert float(metrics["loss"]) == float(again["loss"])
    assert float(metrics["loss"]) != float(later["loss"])


def test_a_key_of_another_implementation_is_refused(batch):
    step = fr.TrainStep(tiny_model(), optax.sgd(0.1))
    key = jax.random.key(0, impl="rbg")
    with pytest.raises(ValueError, match="the key is of rbg, the steps' keys are of threefry2x32"):
        step.init(key, jnp.asarray(batch["image"]))


def test_the_state_holds_arrays_and_nothing_else(batch):
    _, state = make(batch, tx=optax.adam(1e-3), ema_decay=0.9)
    leaves, structure = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert [field.name for field in dataclasses.fields(state)] == [
        *("step", "params", "batch_stats", "opt_state", "ema", "key", "rate_factor")
    ]
    for word in ("ResNet", "GradientTransformation", "function", "TrainStep"):
        assert word not in str(structure)


def test_equal_steps_share_a_compiled_program(batch):
    traces = []

    def count(images):
        traces.append(1)
        return PREPROCESS(images)

    tx = optax.sgd(0.1)
    one, state = make(batch, tx=tx, preprocess=count)
    other, _ = make(batch, tx=tx, preprocess=count)
    assert one == other and hash(one) == hash(other) and one is not other
    traces.clear()
    jax.jit(one)(state, batch)
    first = len(traces)
    jax.jit(other)(state, batch)
    assert first and len(traces) == first
    assert one != dataclasses.replace(one, label_smoothing=0.1)


@dataclasses.dataclass(frozen=True)
class WeightedLoss:
    """Cross-entropy with a weight for each class."""

    weights: tuple[float, ...]

    def __call__(self, logits, targets):
        weights = jnp.asarray(self.weights)
        return -jnp.sum(weights * targets * jax.nn.log_softmax(logits), axis=-1)


@pytest.mark.parametrize("array", [np.ones(10), jnp.ones(10)], ids=["numpy", "jax"])
def test_a_field_that_cannot_be_hashed_is_refused_by_name(batch, array):
    model, tx = tiny_model(), optax.sgd(0.1)
    with pytest.raises(TypeError, match=r"TrainStep\.loss cannot be hashed .* tuples in place of"):
        fr.TrainStep(model, tx, loss=WeightedLoss(array))
    with pytest.raises(ValueError, match="loss='huber' is not one of softmax, sigmoid"):
        fr.TrainStep(model, tx, loss="huber")


def test_a_loop_of_ones_own_with_a_loss_and_a_schedule(batch):
    """A training loop as a user writes it, whose classes weigh differently."""
    weights = (0.0,) * 5 + (1.0,) * 5
    tx = optax.sgd(optax.linear_schedule(1.0, 0.0, 4))
    step, state = make(batch, tx=tx, loss=WeightedLoss(weights))
    jitted, losses, biases = jax.jit(step, donate_argnums=0), [], []
    before = np.asarray(state.params["fc"]["bias"])
    rng = np.random.default_rng(1)
    for _ in range(4):
        rows = rng.permutation(8)
        state, metrics = jitted(state, {name: value[rows] for name, value in batch.items()})
        losses.append(float(metrics["loss"] / metrics["count"]))
        biases.append(np.asarray(state.params["fc"]["bias"]))
    assert losses[-1] < losses[0]
    # The rates are 1, 0.75, 0.5 and 0.25: each moves the bias by -rate * gradient.
    assert np.abs(biases[0] - before).max() > np.abs(biases[3] - biases[2]).max() > 0
    # A batch of classes without weight moves nothing.
    light = {"image": batch["image"], "label": np.arange(8, dtype=np.int32) % 5}
    frozen, metrics = jax.jit(step)(state, light)
    assert float(metrics["loss"]) == 0
    np.testing.assert_array_equal(frozen.params["fc"]["bias"], state.params["fc"]["bias"])
