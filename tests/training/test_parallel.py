"""One step, any number of devices: on eight of one CPU, in a child process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.config import ParallelConfig
from flax_resnet.models.layers import BatchNorm
from flax_resnet.training.mesh import data_mesh
from flax_resnet.training.parallel import choose_layout

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


def test_jit_shard_map_and_pmap_on_eight_devices_agree_with_one():
    """Three steps of a small ResNeXt with augmentation, mixing, dropout and a moving average:
    parameters, running statistics, optimiser state, average and metrics."""
    found = on_eight_devices("modes:float64", "trap")
    assert set(found["modes:float64"]) == {"jit", "shard_map", "pmap"}
    assert max(found["modes:float64"].values()) < 1e-9, found
    # Were train_step to average gradients as pmap's users do, shard_map would be eight times off.
    np.testing.assert_allclose(found["trap"], 8, rtol=1e-6)


@pytest.mark.slow
def test_modes_agree_in_float32():
    found = on_eight_devices("modes:float32")
    assert max(found["modes:float32"].values()) < 1e-4, found


@pytest.mark.slow
def test_batch_norm_in_groups_is_the_same_in_every_mode():
    found = on_eight_devices("grouped")["grouped"]
    assert set(found) == {"jit 2", "shard_map 2", "jit 8", "shard_map 8"}
    assert max(found.values()) < 1e-9, found


@pytest.mark.slow
def test_microbatches_are_the_whole_batch_without_batch_norm_and_agree_over_devices():
    found = on_eight_devices("accumulated")["accumulated"]
    assert set(found) == {"group norm", "jit", "shard_map"}
    assert max(found.values()) < 1e-9, found


@pytest.mark.slow
def test_spread_parameters_train_to_the_same_numbers():
    found = on_eight_devices("sharded")["sharded"]
    assert found["worst"] < 1e-9
    assert found["share"] < 1 / 8 * 1.05


@pytest.mark.slow
def test_a_step_has_one_collective_for_the_gradients_and_those_of_batch_norm():
    found = on_eight_devices("collectives")["collectives"]
    norms, size = found["norms"], found["bytes"]
    for mode in ("jit", "shard_map"):
        kinds = [kind for kind, _ in found[mode]]
        # Of each norm one in the forward and one in the backward pass.
        assert kinds == ["all-reduce"] * (2 * norms + 1), (mode, kinds)
        large = [moved for _, moved in found[mode] if moved > size / 2]
        assert len(large) == 1
    assert len(found["per_device"]) == 1
    ((kind, moved),) = found["per_device"]
    assert kind == "all-reduce"
    assert moved >= size


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


def test_groups_that_do_not_divide_the_batch_are_told():
    x = np.zeros((8, 2, 2, 3), np.float32)
    with pytest.raises(ValueError, match="3 groups does not fit 8 examples"):
        BatchNorm(groups=3).init_with_output(jax.random.key(0), x, train=True)


@pytest.mark.parametrize(
    ("settings", "batch", "parts", "message"),
    [
        ({}, 10, 4, "Batch size 10 does not divide among 1 devices in 4 microbatches: use .* 8"),
        ({"batch_norm": "groups:3"}, 8, 1, "groups:3 does not cut 8 images"),
        ({"mode": "pmap", "shard_params": True}, 8, 1, "shard-params needs --parallel.mode jit"),
    ],
)
def test_impossible_layouts_are_told_in_one_sentence(settings, batch, parts, message):
    with pytest.raises(fr.UserError, match=message):
        choose_layout(ParallelConfig(**settings), batch, parts, data_mesh())


def test_resnet152_spread_over_eight_devices_takes_an_eighth_on_each():
    """From shapes and shardings alone: parameters and momentum, nothing is run."""
    shares = on_eight_devices("resnet152")["resnet152"]
    assert shares["devices"] == 8
    assert shares["parameters"] == 60_192_808
    assert shares["here"] <= shares["total"] / 8 * 1.05
