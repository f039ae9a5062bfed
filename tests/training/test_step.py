"""The pure steps, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_resnet as fr
from flax_resnet.data import Augmentation, Preprocessing

jitted_step = jax.jit(fr.train_step)
jitted_eval = jax.jit(fr.eval_step)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8),
        "label": rng.integers(0, 10, 8).astype(np.int32),
    }


def make_state(batch, tx=None, options=None, **model_options):
    model = fr.create_model("resnet8", **model_options)
    options = options or fr.StepOptions(preprocess=Preprocessing((0.5,) * 3, (0.25,) * 3))
    return fr.create_train_state(
        model, tx or optax.sgd(0.1), jax.random.key(0), jnp.asarray(batch["image"]), options
    )


def test_training_lowers_the_loss(batch):
    state = make_state(batch)
    losses = []
    for _ in range(10):
        state, metrics = jitted_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 10


def test_shard_map_on_a_lone_device_is_jit(batch):
    state = make_state(batch)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
    step = jax.shard_map(
        lambda state, batch: fr.train_step(state, batch, "data"),
        mesh=mesh,
        in_specs=(whole, rows),
        out_specs=whole,
    )
    ours, theirs = jax.jit(step)(state, batch), jitted_step(state, batch)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_evaluation_sums_agree_with_numpy(batch):
    state = make_state(batch)
    images = (batch["image"] / 255 - 0.5) / 0.25
    logits = np.asarray(
        state.model.apply(state.eval_variables, images.astype(np.float32), train=False), np.float64
    )
    labels = batch["label"]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), labels]
    rank = (logits > logits[np.arange(8), labels][:, None]).sum(1)
    sums = jitted_eval(state, batch)
    np.testing.assert_allclose(sums["loss"], losses.sum(), rtol=1e-5)
    assert float(sums["top1"]) == (rank == 0).sum()
    assert float(sums["top5"]) == (rank < 5).sum()
    assert float(sums["count"]) == 8


def test_masked_examples_do_not_count_whatever_they_hold(batch):
    options = fr.StepOptions()
    floats = batch | {"image": batch["image"].astype(np.float32) / 255}
    state = make_state(floats, options=options)
    whole = jitted_eval(state, {name: value[:5] for name, value in floats.items()})
    spoilt = floats["image"].copy()
    spoilt[5:] = np.nan
    masked = jitted_eval(state, floats | {"image": spoilt, "mask": np.arange(8) < 5})
    for name in whole:
        np.testing.assert_allclose(masked[name], whole[name], rtol=1e-6)


def test_top5_counts_every_example_where_there_are_fewer_than_five_classes(batch):
    batch = batch | {"label": batch["label"] % 3}
    assert float(jitted_eval(make_state(batch, num_classes=3), batch)["top5"]) == 8


def test_label_smoothing_is_the_papers(batch):
    smoothing = 0.1
    losses = {}
    for share in (0.0, smoothing):
        options = fr.StepOptions(
            preprocess=Preprocessing((0.5,) * 3, (0.25,) * 3), label_smoothing=share
        )
        # One step of plain SGD moves the classifier's bias by -rate * mean(softmax - target).
        state = make_state(batch, tx=optax.sgd(1.0), options=options)
        after, _ = jitted_step(state, batch)
        losses[share] = np.asarray(state.params["fc"]["bias"] - after.params["fc"]["bias"])
    one_hot = np.eye(10)[batch["label"]]
    smooth = one_hot * (1 - smoothing) + smoothing / 10
    expected = (one_hot - smooth).mean(0)
    np.testing.assert_allclose(losses[smoothing] - losses[0.0], expected, atol=1e-6)


def test_mixed_images_and_targets_reach_the_loss(batch):
    """A mixture that turns the images round and asks for fixed targets."""
    wanted = np.random.default_rng(1).dirichlet(np.ones(10), 8)

    def mix(key, images, targets, axis_name):
        assert targets.shape == (8, 10)
        return images[::-1], jnp.asarray(wanted, jnp.float32)

    prepare = Preprocessing((0.5,) * 3, (0.25,) * 3)
    state = make_state(
        batch, tx=optax.sgd(1.0), options=fr.StepOptions(preprocess=prepare, mix=mix)
    )
    after, _ = jitted_step(state, batch)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits, _ = state.model.apply(
        variables, prepare(batch["image"])[::-1], train=True, mutable=["batch_stats"]
    )
    # One step of plain SGD moves the classifier's bias by -rate * mean(softmax - target).
    moved = state.params["fc"]["bias"] - after.params["fc"]["bias"]
    np.testing.assert_allclose(moved, (jax.nn.softmax(logits) - wanted).mean(0), atol=1e-6)


def test_ema_is_the_running_average_of_weights_and_statistics(batch):
    options = fr.StepOptions(preprocess=Preprocessing((0.5,) * 3, (0.25,) * 3), ema_decay=0.75)
    state = make_state(batch, options=options)
    expected = {"params": state.params, "batch_stats": state.batch_stats}
    for _ in range(3):
        state, _ = jitted_step(state, batch)
        new = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda old, now: 0.75 * old + 0.25 * now, expected, new)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected
    )
    assert state.eval_variables["params"] is state.ema["params"]


def test_the_same_step_gives_the_same_augmentation_and_another_step_another(batch):
    options = fr.StepOptions(
        augment=Augmentation(2, True), preprocess=Preprocessing((0.5,) * 3, (0.25,) * 3)
    )
    state = make_state(batch, tx=optax.sgd(0.0), options=options)
    first, metrics = jitted_step(state, batch)
    _, again = jitted_step(state, batch)
    _, later = jitted_step(first, batch)
    assert float(metrics["loss"]) == float(again["loss"])
    assert float(metrics["loss"]) != float(later["loss"])


def test_a_key_of_another_implementation_is_refused(batch):
    model, key = fr.create_model("resnet8"), jax.random.key(0, impl="rbg")
    with pytest.raises(ValueError, match="the key is of rbg, the steps' keys are of threefry2x32"):
        fr.create_train_state(model, optax.sgd(0.1), key, jnp.asarray(batch["image"]))
