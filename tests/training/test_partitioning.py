"""One step, any number of devices: on eight of one CPU, in a child process."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl  # all that is read from a device goes through it

import flax_resnet as fr
from flax_resnet.config import DataConfig, OptimizerConfig, ParallelConfig, TransferConfig
from flax_resnet.models import ModelSummary, StageSummary
from flax_resnet.models.norm import BatchNorm
from flax_resnet.training.budget import backward_macs, simulate_scaling
from flax_resnet.training.clock import Clock
from flax_resnet.training.communication import collectives_of
from flax_resnet.training.mesh import data_mesh
from flax_resnet.training.partitioning import choose_partitioning
from tests.changed_steps import change_steps
from tests.tiny_net import TINY

CHILD = Path(__file__).with_name("eight_devices.py")


def on_eight_devices(*work):
    """What ``eight_devices.py`` finds; compiled programs come from the tests' cache."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    paths = [str(Path(fr.__file__).parents[1]), environment.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(CHILD), *work],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_jit_shard_map_and_pmap_on_eight_devices_agree_with_one():
    """Three steps of a small ResNeXt with augmentation, mixing, dropout and a moving average:
    parameters, running statistics, optimiser state, average and metrics."""
    found = on_eight_devices("modes:float64", "modes:float32", "trap")
    for name, bound in (("modes:float64", 1e-9), ("modes:float32", 1e-4)):
        assert set(found[name]) == {"jit", "shard_map", "pmap"}
        assert max(found[name].values()) < bound, found
    # If the step averaged gradients as users of pmap do, shard_map would be eight times off.
    np.testing.assert_allclose(found["trap"], 8, rtol=1e-6)


@pytest.mark.slow
def test_groups_and_microbatches_are_the_same_over_devices():
    """Batch norm in groups and microbatches in every mode beside one device, microbatches beside
    the whole batch where no batch norm is, and as a loop beside written out."""
    found = on_eight_devices("grouped", "accumulated")
    assert set(found["grouped"]) == {"jit 2", "shard_map 2", "jit 8", "shard_map 8"}
    assert set(found["accumulated"]) == {"group norm", "jit", "shard_map", "loop"}
    assert max(max(one.values()) for one in found.values()) < 1e-9, found


@pytest.mark.slow
def test_spread_parameters_and_the_collectives_of_a_step():
    """Spread over the devices the numbers are the same, and resnet152 takes an eighth on each; a
    step has one collective for the gradients, and those of batch norm, also where
    flax-resnet-onednn computes the convolutions, and evaluation gives the same logits."""
    all_found = on_eight_devices("sharded", "resnet152", "collectives", "evaluated")
    assert all_found["sharded"]["worst"] < 1e-9
    assert all_found["sharded"]["share"] < 1 / 8 * 1.05
    # From shapes and shardings alone: parameters and momentum, nothing is run.
    shares = all_found["resnet152"]
    assert shares["devices"] == 8
    assert shares["parameters"] == 60_192_808
    assert shares["here"] <= shares["total"] / 8 * 1.05
    found = all_found["collectives"]
    norms, size = found["norms"], found["bytes"]
    for mode in ("jit", "shard_map", "native"):
        kinds, moved = zip(*found[mode], strict=True)
        assert set(kinds) == {"all-reduce"}
        assert sum(one > size / 2 for one in moved) == 1  # the gradients, combined
        # Of each norm one in the forward and one in the backward pass; some are combined too.
        assert len(moved) - 1 <= 2 * norms
        assert sorted(moved)[-2] < size / 8
    assert len(found["per_device"]) == 1
    ((kind, moved),) = found["per_device"]
    assert kind == "all-reduce"
    assert moved >= size
    assert max(all_found["evaluated"].values()) < 1e-5


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_batch_norm_in_groups_agrees_with_numpy(groups):
    """Each group by its own mean and variance; the running ones by the groups' averages."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (8, 2, 3, 5)).astype(np.float32)
    norm = BatchNorm(groups=groups, momentum=0.75)
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    means, variances, expected = [], [], []
    for part in np.split(x.astype(np.float64), groups):
        mean, variance = part.mean((0, 1, 2)), part.var((0, 1, 2))
        expected.append((part - mean) / np.sqrt(variance + 1e-5))
        means.append(mean)
        variances.append(part.var((0, 1, 2), ddof=1))
    np.testing.assert_allclose(y, np.concatenate(expected), atol=2e-5)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.25 * np.mean(means, 0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * np.mean(variances, 0), rtol=1e-5)


def test_groups_that_do_not_divide_the_batch_are_refused():
    x = np.zeros((8, 2, 2, 3), np.float32)
    with pytest.raises(ValueError, match="3 groups does not fit 8 examples"):
        BatchNorm(groups=3).init_with_output(jax.random.key(0), x, train=True)


@pytest.mark.parametrize(
    ("settings", "batch", "microbatches", "message"),
    [
        ({}, 10, 4, "Batch size 10 does not divide among 1 devices in 4 microbatches: use .* 8"),
        ({"batch_norm": "groups:3"}, 8, 1, "groups:3 does not cut 8 images"),
        (
            {"mode": "shard_map", "shard_params": True},
            8,
            1,
            "shard-params needs .* jit, not shard_map",
        ),
    ],
)
def test_impossible_partitionings_are_refused_in_one_sentence(
    settings, batch, microbatches, message
):
    with pytest.raises(fr.UserError, match=message):
        choose_partitioning(ParallelConfig(**settings), batch, microbatches, data_mesh())


def test_the_scaling_table_is_the_ring_by_hand():
    """8 devices, 2e9 FLOP at 1e12 FLOP/s, 1e9 bytes at 1e12 bytes/s in 4 collectives."""
    one, eight = simulate_scaling(2e9, 1e9, 4, 1e12, 1e12, devices=(1, 8))
    assert one.seconds == pytest.approx(2e-3)
    assert (one.least, one.most) == (1, 1)
    communication = 2 * 7 / 8 * 1e-3 + 4 * 3 * 1e-5
    assert eight.seconds == pytest.approx(2e-3 + communication)
    assert eight.least == pytest.approx(2e-3 / (2e-3 + communication))
    assert eight.most == pytest.approx(2e-3 / (2e-3 + communication - 4e-3 / 3))


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, console):
    config = fr.Config(
        model=TINY,
        data=DataConfig(name="digits", batch_size=64),
        optimizer=OptimizerConfig(learning_rate=0.1, base_batch_size=32),
        workdir=str(tmp_path / "run"),
        compile_cache=None,
        dry_run=True,
        calibrate=2,
    )
    fr.train(config, console)
    text = console.text()
    for part in ("parameters", "optimiser", "activations and workspace", "4,096", "Assumed"):
        assert part in text
    # The first row of the table is the step that was measured.
    (milliseconds,) = re.findall(r"Measured over 2 steps: ([\d.,]+) ms a step", text)
    assert re.search(rf"^\W+1 \W+64 \W+{re.escape(milliseconds)} ms", text, re.MULTILINE)
    assert "Learning rate 0.2 (0.1 × 64 / 32)" in text
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_head_on_photos_counts_what_trains(noise_photos, tmp_path, console):
    """Batches of files have a mask. The head has 8 inputs and 2 classes: 18 float32 numbers."""
    config = fr.Config(
        model=TINY,
        data=DataConfig(name="folder", dir=str(noise_photos), image_size=16, batch_size=16),
        transfer=TransferConfig(mode="head", views=0),
        workdir=str(tmp_path / "run"),
        compile_cache=None,
        dry_run=True,
        calibrate=1,
    )
    fr.train(config, console)
    assert "Measured over 1 steps" in console.text()
    assert "the gradients' 72 B a step" in console.text()
    kept = dataclasses.replace(config, transfer=TransferConfig(mode="head"), calibrate=None)
    fr.train(kept, console)
    *_, last = console.text().splitlines()
    assert last.startswith("Steps run on kept features")


def test_the_backward_pass_ends_where_training_begins():
    """By hand: of stages of 100, 20 and 3 multiply-accumulates, those from the second on train."""
    stages = [
        StageSummary(name, (), 0, macs) for name, macs in (("stem", 100), ("layer1", 20), ("fc", 3))
    ]
    summary = ModelSummary(0, 123, tuple(stages), 0, 0, {})
    everything = {"conv1": {"kernel": 1}, "layer1_0": {"conv1": {"kernel": 1}}, "fc": {"kernel": 1}}
    assert backward_macs(summary, everything) == 2 * 123
    assert backward_macs(summary, {"layer1_0": everything["layer1_0"], "fc": {"kernel": 1}}) == 46
    assert backward_macs(summary, {"bn1": {"scale": 1}, "fc": {"kernel": 1}}) == 123 + 3


def test_the_loop_reads_from_devices_at_log_points_alone(tmp_path, console, monkeypatch):
    """The log is due after the third of six steps: no other waits for the one before it."""
    steps, reads, value = [], [], ArrayImpl._value

    class EnoughError(Exception):
        pass

    def count(number, state, sums):
        if number > 6:
            raise EnoughError  # evaluation and saving read, too
        steps.append(number)
        return state, sums

    def reading(wrapped):
        return lambda *arguments: reads.append(len(steps)) or wrapped(*arguments)

    change_steps(monkeypatch, count)
    monkeypatch.setattr(Clock, "log_is_due", lambda self: len(steps) == 3)
    monkeypatch.setattr(ArrayImpl, "_value", property(reading(value.fget)))
    monkeypatch.setattr(jax, "block_until_ready", reading(jax.block_until_ready))
    config = fr.Config(
        model=TINY,
        data=DataConfig(name="digits", batch_size=128),
        workdir=str(tmp_path),
        compile_cache=None,
    )
    with pytest.raises(EnoughError):
        fr.train(config, console)
    assert set(reads) - {0} == {3}


def test_more_collectives_than_one_are_read_from_a_program():
    program = """
  %all-reduce.1 = (f32[2,3]{1,0}, /*index=5*/bf16[4]{0}) all-reduce(%a, %b), channel_id=1
  ROOT %g = f32[8]{0} all-gather-start(%c), dimensions={0}
  %add = f32[8]{0} add(%all-reduce.1, %g)
"""
    found = [(one.kind, one.bytes) for one in collectives_of(program)]
    assert found == [("all-reduce", 32), ("all-gather", 32)]
