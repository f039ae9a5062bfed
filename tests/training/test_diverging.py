"""Losses and gradients that are not finite: the run stops, skips the step, or is rolled back."""

import dataclasses
import json
import os
import re
import signal
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_resnet as fr
from flax_resnet import cli
from flax_resnet.config import ModelConfig, OptimizerConfig, TransferConfig
from flax_resnet.data import batch_indices
from flax_resnet.training import clock, create_optimizer, loop, nonfinite
from flax_resnet.training import step as step_module
from flax_resnet.training.nonfinite import NonfiniteSteps
from flax_resnet.training.resolve import resolve
from flax_resnet.training.step import TrainStep
from flax_resnet.weights.formats.checkpoint import read_tree
from tests.changed_steps import change_steps
from tests.training.test_loop import BASE, config, history

pytestmark = pytest.mark.usefixtures("no_page")
DATA = dataclasses.replace(BASE.data, batch_size=240)


@dataclasses.dataclass(frozen=True)
class SpikeAt:
    """Augmentation that turns the images of some steps into infinity, whatever the state."""

    keys: tuple

    def __call__(self, key, images, index):
        hits = jax.random.key_data(key) == jnp.array(self.keys, jnp.uint32)
        hit = hits.all(axis=1).any()
        return jnp.where(hit, jnp.inf, images.astype(jnp.float32))


@pytest.fixture
def spike(monkeypatch):
    """Runs whose images are infinite in the given steps, from 0."""

    def key_of(run, step):
        key = jax.random.wrap_key_data(run.init().key)
        augment_key, _ = jax.random.split(jax.random.fold_in(key, step))
        return tuple(np.asarray(jax.random.key_data(augment_key)).tolist())

    def spiked(*steps):
        def changed(settings):
            run = resolve(settings)
            spike = SpikeAt(tuple(key_of(run, step) for step in steps))
            return dataclasses.replace(run, step=dataclasses.replace(run.step, augment=spike))

        for module in ("loop", "replay"):
            monkeypatch.setattr(f"flax_resnet.training.{module}.resolve", changed)

    return spiked


@pytest.mark.slow
def test_a_run_that_stops_names_the_step_and_keeps_it(tmp_path, spike, console, capsys):
    spike(7)
    with pytest.raises(fr.UserError) as caught:
        fr.train(config(tmp_path, data=DATA, save_every=3, max_steps=10), console)
    text = str(caught.value)
    first = batch_indices(0, 7, 240, 1293)[:8].tolist()
    assert "is not finite at step 8: training diverged, at learning rate 0.0146" in text
    assert "\n" not in text and "Lower the learning rate" in text
    assert f"samples {', '.join(map(str, first))} and 232 more" in text
    assert max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")) == 6
    folder = tmp_path / "debug" / "step-8"
    assert f"`flax-resnet debug-step {folder}` computes that step again" in text
    assert json.loads((folder / "debug.json").read_text())["samples"][:8] == first
    assert cli.main(["debug-step", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "Step 8, learning rate" in printed and "Loss nan" in printed
    assert "The state after the step is not finite in" in printed
    assert "before the step" not in printed


def first_samples(step):
    return ", ".join(map(str, batch_indices(0, step - 1, 240, 1293)[:8]))


@pytest.mark.slow
def test_a_run_that_skips_goes_on_without_the_steps(tmp_path, spike, console, monkeypatch):
    """The metrics are read once after both steps, whose samples it names."""
    monkeypatch.setattr(clock, "LOG_SECONDS", 1e9)
    spike(6, 8)
    result = fr.train(
        config(tmp_path, data=DATA, save_every=5, on_nan="skip", max_steps=10), console
    )
    assert result.finished and result.step == 10
    text = console.text()
    assert "Step 7 (learning rate" in text and " and step 9 (learning rate" in text
    assert all(f", samples {first_samples(step)}, ...)" in text for step in (7, 9))
    assert "were skipped, because the loss or the gradient was not finite." in text
    *lines, _ = history(tmp_path)
    assert all(np.isfinite(line["train_loss"]) for line in lines)
    assert all(line["grad_norm"] > 0 for line in lines)


@pytest.mark.slow
def test_a_run_that_is_rolled_back_names_the_samples(tmp_path, spike, console, monkeypatch):
    """At each rate the same step fails, so that the last time ends the run."""
    monkeypatch.setattr(clock, "LOG_SECONDS", 1e9)
    monkeypatch.setattr(loop, "MOST_ROLLBACKS", 2)
    spike(1)
    with pytest.raises(fr.UserError, match="step 2: training diverged"):
        fr.train(config(tmp_path, data=DATA, save_every=3, on_nan="rollback"), console)
    text = console.text()
    named = re.findall(rf"Step 2 \(learning rate (\S+), samples {first_samples(2)}, ...\)", text)
    assert len(named) == text.count("training goes on after step 0 with") == 2
    assert float(named[0]) == pytest.approx(2 * float(named[1]), rel=1e-4)


@pytest.mark.slow
def test_a_run_that_is_rolled_back_goes_on_with_half_the_rate(tmp_path, console, monkeypatch):
    """It diverges once, after a checkpoint, and keeps the factor over a restart."""

    def diverge(number, state, sums):
        if number == 4:
            with jax.transfer_guard("allow"):
                params = jax.tree.map(lambda leaf: leaf * jnp.nan, state.params)
                state = state.replace(params=params)
        return state, sums

    change_steps(monkeypatch, diverge)
    settings = config(tmp_path, data=DATA, save_every=3, on_nan="rollback", max_steps=7)
    assert fr.train(settings, console).step == 7
    assert "training goes on after step 3 with 0.5 times the learning rate" in console.text()
    assert fr.train(dataclasses.replace(settings, max_steps=8), console).step == 8
    run = resolve(settings)
    lines = [line for line in history(tmp_path) if "train_loss" in line]
    assert [line["step"] for line in lines] == [6, 7, 8]
    for line in lines:
        assert line["rate_factor"] == 0.5
        assert line["learning_rate"] == pytest.approx(float(run.schedule(line["step"] - 1)) / 2)


@pytest.mark.slow
def test_a_run_that_skips_step_after_step_ends_and_keeps_the_first(
    tmp_path, spike, console, monkeypatch, capsys
):
    """It was kept with a loss of 0, that of a step that was skipped again."""
    monkeypatch.setattr(clock, "LOG_SECONDS", 0)
    monkeypatch.setattr(nonfinite, "MOST_IN_A_ROW", 3)
    spike(1, 2, 3)
    with pytest.raises(fr.UserError, match="loss is not finite at step 2: training diverged"):
        fr.train(config(tmp_path, data=DATA, on_nan="skip"), console)
    folder = tmp_path / "debug" / "step-2"
    kept = json.loads((folder / "debug.json").read_text())
    assert kept["loss"] is kept["grad_norm"] is None
    assert cli.main(["debug-step", str(folder)]) == 0
    assert "Loss nan, norm of the gradient nan" in capsys.readouterr().out


@pytest.mark.slow
def test_steps_that_are_skipped_have_no_loss(tmp_path, spike, console, monkeypatch):
    """The history had the loss 0."""
    monkeypatch.setattr(clock, "LOG_SECONDS", 0)
    spike(0, 1)
    result = fr.train(config(tmp_path, data=DATA, on_nan="skip", max_steps=2), console)
    assert result.finished
    first = history(tmp_path)[0]
    assert first["train_loss"] is first["train_top1"] is first["grad_norm"] is None
    assert first["val_loss"] > 0


@pytest.mark.slow
def test_skipped_steps_are_counted_after_an_evaluation_that_was_pending(
    tmp_path, spike, console, monkeypatch
):
    """Those before the evaluation were subtracted from those after it."""
    monkeypatch.setattr(clock, "LOG_SECONDS", 1e9)
    spike(2, 7)

    def stop(number, state, sums):
        if number == 6:  # after which an evaluation is due
            os.kill(os.getpid(), signal.SIGTERM)
        return state, sums

    settings = config(tmp_path, data=DATA, on_nan="skip", save_every=None, max_steps=9)
    with monkeypatch.context() as patch:
        change_steps(patch, stop)
        assert fr.train(settings, console).step == 6
    assert not (tmp_path / "history.jsonl").exists()
    assert fr.train(settings, console).finished
    assert "Step 8 (learning rate 0.0146146" in console.text()
    assert f", samples {first_samples(8)}, ...) was skipped" in console.text()


@pytest.mark.slow
def test_a_step_that_fails_again_is_kept_again(tmp_path, spike, console, monkeypatch):
    """The state of the first attempt stayed, next to what was found in the second."""
    monkeypatch.setattr(loop, "MOST_ROLLBACKS", 1)
    spike(1)
    for on_nan, factor in (("stop", 1.0), ("rollback", 0.5)):
        with pytest.raises(fr.UserError, match="step 2: training diverged"):
            fr.train(config(tmp_path, data=DATA, max_steps=4, on_nan=on_nan), console)
        kept = read_tree(tmp_path / "debug" / "step-2", 1)["state"]
        assert float(kept["rate_factor"]) == factor


@pytest.mark.slow
def test_a_head_on_kept_features_that_diverges_is_rolled_back_and_explained(
    tmp_path, console, monkeypatch
):
    """The weights were said not to fit the model, of which the head alone was left."""
    monkeypatch.setattr(loop, "MOST_ROLLBACKS", 1)
    net = {"stage_sizes": (1,), "widths": (8,), "block": "basic", "stem": "cifar"}
    model = fr.create_model("resnet", **net)
    images = np.zeros((1, 8, 8, 1), np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    fr.save_weights(tmp_path / "start.safetensors", variables, model)
    settings = config(
        tmp_path / "run",
        model=ModelConfig(name="resnet", **net),
        data=DATA,
        optimizer=OptimizerConfig(learning_rate=1e30),
        transfer=TransferConfig(
            weights=str(tmp_path / "start.safetensors"),
            mode="head",
            solver="sgd",
            feature_cache=str(tmp_path / "features"),
        ),
        on_nan="rollback",
    )
    with pytest.raises(fr.UserError, match=r"is not finite at step \d+: training diverged"):
        fr.train(settings, console)
    assert "training goes on after step 0 with 0.5 times" in console.text()
    assert list((tmp_path / "run" / "debug").glob("step-*/debug.json"))


@pytest.mark.parametrize(
    ("bad", "last", "text"),
    [
        ([3], 5, "Step 3 (learning rate 0.3, samples 3, 4, ...)"),
        (
            [3, 4],
            5,
            "Step 3 (learning rate 0.3, samples 3, 4, ...) and step 4 (learning rate 0.4, "
            "samples 4, 5, ...)",
        ),
        ([2, 3, 4, 5, 300], 300, "5 of the steps 1 to 300"),  # 44 has the same index
    ],
)
def test_steps_that_are_looked_at_together_are_named(bad, last, text):
    run = SimpleNamespace(
        samples=lambda step: [step + 1, step + 2], schedule=lambda step: (step + 1) / 10
    )
    sums = step_module.zero_step_metrics()
    steps = NonfiniteSteps(run, sums, 0)
    for step in bad:
        index = (step - 1) % step_module.COUNTED_STEPS
        sums["nonfinite_steps"] = sums["nonfinite_steps"].at[index].add(1)
    assert steps.describe(steps.find(sums, last), 1.0) == text
    assert steps.find(sums, last + 1).count == 0


def small_step(tx=None, **options):
    model = fr.ResNet((1,), "basic", (4,), num_classes=3, stem="cifar", norm="group")
    return TrainStep(model, tx or optax.sgd(0.1), **options)


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def state_and_batch(step, images=IMAGES):
    return step.init(jax.random.key(0), IMAGES), {"image": images, "label": jnp.arange(4) % 3}


def infinite_first(logits, targets):
    """A loss whose gradient is infinite for the examples 0 and 2, the first microbatch of two."""

    @jax.custom_vjp
    def identity(logits):
        return logits

    def backward(_, cotangent):
        return (jnp.where(targets[:, :1] * 0 + targets[:, 1:2] > 0, cotangent, jnp.inf),)

    identity.defvjp(lambda logits: (logits, None), backward)
    return optax.softmax_cross_entropy(identity(logits), targets)


@pytest.mark.slow
def test_an_infinite_gradient_does_not_reach_the_images_of_the_next_microbatch():
    """The metrics of the later microbatches were NaN."""
    whole, cut = small_step(loss=infinite_first), small_step(loss=infinite_first, microbatches=2)
    losses = [jax.jit(step)(*state_and_batch(step))[1]["loss"] for step in (whole, cut)]
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_norm_of_the_gradient_and_a_skipped_step():
    """The norm is that of the update of plain SGD, divided by its rate; NumPy computes it."""
    step = small_step(measures_gradient=True, skips_nonfinite=True)
    state, batch = state_and_batch(step)
    new, sums = jax.jit(step)(state, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b, np.float64), state.params, new.params)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(moved))) / 0.1
    np.testing.assert_allclose(sums["grad_norm"] / 4, norm, rtol=1e-4)
    assert not sums["nonfinite_steps"].any()
    same, sums = jax.jit(step)(new, batch | {"image": IMAGES.at[0].set(jnp.nan)})
    assert int(same.step) == 2 and np.flatnonzero(sums["nonfinite_steps"]).tolist() == [1]
    assert float(sums["nonfinite_steps"].sum()) == 1
    assert float(sums["loss"]) == float(sums["count"]) == 0
    jax.tree.map(np.testing.assert_array_equal, same.params, new.params)


class SmallNet(nn.Module):
    """A convolution and a dense layer."""

    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (2, 2))(images)).mean((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "sgdw", "adam", "adamw", "lamb", "muon"])
def test_the_schedule_goes_on_where_a_step_is_skipped(name):
    """The step after it has the rate of the second step, and all else of the first."""

    def after(schedule, *batches):
        settings = OptimizerConfig(name=name, clip_norm=1.0, bias_rate=2.0)
        step = TrainStep(SmallNet(), create_optimizer(settings, schedule), skips_nonfinite=True)
        jitted, state = jax.jit(step), step.init(jax.random.key(0), IMAGES)
        for images in batches:
            state, _ = jitted(state, {"image": images, "label": jnp.arange(4) % 3})
        return state.params

    start, wanted = after(lambda step: 0.01), after(lambda step: 0.01, IMAGES)
    found = after(lambda step: 0.01 * step, IMAGES * jnp.nan, IMAGES)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, wanted)
    assert not np.allclose(found["Dense_0"]["kernel"], start["Dense_0"]["kernel"], rtol=1e-6)


def test_a_factor_of_the_rate_scales_the_update():
    step = small_step(optax.sgd(0.1, 0.9))
    state, batch = state_and_batch(step)
    half = state.replace(rate_factor=jnp.float32(0.5))
    (whole, _), (less, _) = (jax.jit(step)(one, batch) for one in (state, half))
    for before, one, other in zip(
        *(jax.tree.leaves(one.params) for one in (state, whole, less)), strict=True
    ):
        np.testing.assert_allclose(2 * (other - before), one - before, atol=1e-6)


def test_clipping_scales_a_long_gradient_to_the_norm():
    """As torch.nn.utils.clip_grad_norm_ does, here for a gradient of norm 5."""
    tx = create_optimizer(
        OptimizerConfig(clip_norm=1.0, momentum=0.0, weight_decay=0.0), lambda step: 1.0
    )
    gradient = {"w": jnp.array([3.0, 4.0])}
    updates, _ = tx.update(gradient, tx.init(gradient), gradient)
    np.testing.assert_allclose(updates["w"], [-0.6, -0.8], rtol=1e-6)
