"""Weights of orbax checkpoints: those of the best step, and nothing damaged."""

import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flax_resnet.errors import UserError
from flax_resnet.training import Checkpoints, checkpoint
from flax_resnet.weights.formats import checkpoint as reading
from flax_resnet.weights.formats.checkpoint import checksum, read_checkpoint

RNG = np.random.default_rng(0)


def state(number):
    """Leaves of several types and shapes, all ``number``; some are not to be read."""
    params = {"conv1": {"kernel": np.full((3, 3, 2, 4), number, np.float32)}}
    params["fc"] = {"bias": np.full((5,), number, ml_dtypes.bfloat16)}
    variables = {
        "params": params,
        "batch_stats": {"bn1": {"mean": np.full((4,), number, np.float32)}},
    }
    optimizer = {"0": {}, "1": {"count": np.int32(number), "mu": RNG.normal(size=7)}}
    return {"state": variables | {"opt_state": optimizer, "step": np.int32(number)}}


def save(folder, trees, scores):
    checkpoints = Checkpoints(folder)
    for step, (tree, score) in enumerate(zip(trees, scores, strict=True), 1):
        checkpoints.save(step, tree, score)
    checkpoints.close()


@pytest.mark.parametrize(
    ("scores", "best"), [((0.5, 0.7, 0.6), 2), ((0.5, 0.5, 0.5), 3), ((None, None, None), 3)]
)
def test_the_best_is_read_the_newest_of_equals(tmp_path, scores, best):
    save(tmp_path / "checkpoints", [state(n) for n in (1, 2, 3)], scores)
    step, variables = read_checkpoint(tmp_path / "checkpoints")
    assert step == best
    kernel, bias = variables["params"]["conv1"]["kernel"], variables["params"]["fc"]["bias"]
    assert kernel.shape == (3, 3, 2, 4) and np.all(kernel == best)
    assert bias.dtype == jnp.bfloat16 and np.all(bias == best)
    assert np.all(variables["batch_stats"]["bn1"]["mean"] == best)


def test_the_moving_average_is_read_where_there_is_one(tmp_path):
    tree, average = state(1), state(2)["state"]
    tree["state"]["ema"] = {kind: average[kind] for kind in ("params", "batch_stats")}
    save(tmp_path / "checkpoints", [tree], [0.5])
    _, variables = read_checkpoint(tmp_path / "checkpoints")
    assert np.all(variables["params"]["conv1"]["kernel"] == 2)


def test_weights_that_are_not_what_was_saved_are_refused(tmp_path, monkeypatch):
    tree, other = state(1), state(1)
    other["state"]["params"]["conv1"]["kernel"][0, 0, 0, 0] = 1.0000001
    wrong = checkpoint.checksum(tree)
    monkeypatch.setattr(checkpoint, "checksum", lambda _: wrong)
    save(tmp_path / "checkpoints", [other], [0.5])
    with pytest.raises(UserError, match="its checksum differs"):
        read_checkpoint(tmp_path / "checkpoints")


@pytest.mark.parametrize("when", ["read_facts", "_open"])
def test_a_checkpoint_that_the_run_removes_meanwhile(tmp_path, monkeypatch, when):
    """It was reported as damaged, with the advice to prune the run that trains."""
    folder = tmp_path / "checkpoints"
    save(folder, [state(1), state(2)], [0.7, 0.6])
    original = getattr(reading, when)

    def removing(*arguments):
        shutil.rmtree(folder / "1", ignore_errors=True)
        return original(*arguments)

    monkeypatch.setattr(reading, when, removing)
    step, variables = read_checkpoint(folder)
    assert step == 2 and np.all(variables["params"]["conv1"]["kernel"] == 2)


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(UserError, match="There are no checkpoints in"):
        read_checkpoint(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no finished checkpoint"):
        read_checkpoint(tmp_path / "checkpoints")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_the_checksum_is_a_weighted_sum_of_words(dtype):
    array = np.asarray(jnp.asarray(RNG.normal(size=(3, 5, 7)) * 100).astype(dtype))
    size = min(array.dtype.itemsize, 4)
    words = array.reshape(-1).view(f"u{size}").astype(np.uint32)
    odd = 2 * np.arange(len(words), dtype=np.uint32) + np.uint32(1)
    assert int(checksum({"a": array})[0]) == int(np.dot(words, odd))
