"""Whole runs on the bundled digits: what is written, exact resumption, bad input."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import flax_resnet as fr
from flax_resnet.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TransferConfig,
)
from flax_resnet.report import append_history
from flax_resnet.training import Checkpoints, checkpoint, clock, evaluation
from flax_resnet.training.checkpoint import checksum
from flax_resnet.training.recording import Recorder
from flax_resnet.transform import EvalTransform
from tests.changed_steps import change_steps
from tests.tiny_net import TINY

pytestmark = pytest.mark.usefixtures("no_page")  # but `whole_run` has one
BASE = Config(
    model=TINY,
    data=DataConfig(name="digits", batch_size=128),
    augment=AugmentConfig(crop_padding=1, flip=False),
    optimizer=OptimizerConfig(learning_rate=0.05),
    epochs=2,
    compile_cache=None,
)


def config(workdir, **changes):
    return dataclasses.replace(BASE, workdir=str(workdir), **changes)


def history(workdir):
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


def checkpoint_arrays(workdir, step):
    tree = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / "default")
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


TIMES = {"time", "images_per_second", "data_wait", "checksum"}  # of the whole line


def without_times(lines):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, fr.train(config(workdir, track=("csv",)))


def test_a_run_writes_its_folder(whole_run):
    workdir, result = whole_run
    assert result.finished
    assert json.loads((workdir / "classes.json").read_text()) == [str(n) for n in range(10)]
    written = json.loads((workdir / "preprocessing.json").read_text())
    assert set(written) == {field.name for field in dataclasses.fields(EvalTransform)}
    assert json.loads((workdir / "config.json").read_text())["model.name"] == "resnet8"
    *lines, last = history(workdir)
    assert [line["epoch"] for line in lines] == [1, 2]
    wanted = "step epoch time train_loss train_top1 val_loss val_top1 val_top5 learning_rate"
    assert {*wanted.split(), "images_per_second", "data_wait"} <= set(lines[0])
    assert {"test_loss", "test_top1", "test_top5"} <= set(last)
    assert 0 <= last["test_top1"] <= 1
    assert last["test_top1"] == result.test["top1"]
    assert (workdir / "report" / "index.html").is_file()
    with (workdir / "metrics.csv").open() as file:
        tracked = [row for row in csv.DictReader(file) if row["metric"] == "train_loss"]
    assert [float(row["value"]) for row in tracked] == [line["train_loss"] for line in lines]


def assert_same_run(one, other, step):
    """The same history but for the times, and the same bits in the last checkpoint."""
    assert without_times(history(one)) == without_times(history(other))
    arrays = checkpoint_arrays(one, step), checkpoint_arrays(other, step)
    for expected, found in zip(*arrays, strict=True):
        np.testing.assert_array_equal(expected, found)


def wait_for(path, seconds=120):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(
    whole_run, tmp_path, console, monkeypatch
):
    workdir, result = whole_run

    def stop(number, state, sums):
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return state, sums

    with monkeypatch.context() as patch:
        change_steps(patch, stop)
        stopped = fr.train(config(tmp_path, save_every=3), console)
    assert stopped.step == 4
    assert not stopped.finished
    assert "saved. The same command resumes there" in console.text()
    resumed = fr.train(config(tmp_path, save_every=3), console)
    assert resumed.finished
    assert f"Resuming from the checkpoint after step {stopped.step}" in console.text()
    assert_same_run(workdir, tmp_path, result.step)


@pytest.mark.slow
def test_a_signal_during_evaluation_leaves_it_to_the_resumed_run(
    whole_run, tmp_path, console, monkeypatch
):
    workdir, result = whole_run
    evaluate = evaluation._evaluate
    calls = []

    def signalled(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    monkeypatch.setattr(evaluation, "_evaluate", signalled)
    stopped = fr.train(config(tmp_path), console)
    assert not stopped.finished
    assert len(calls) == 1  # the second of its two batches was not begun
    assert not (tmp_path / "history.jsonl").exists()
    assert fr.train(config(tmp_path), console).finished
    assert f"Resuming from the checkpoint after step {stopped.step}" in console.text()
    assert_same_run(workdir, tmp_path, result.step)


@pytest.mark.slow
def test_a_signal_during_a_save_ends_the_run_with_that_save(
    whole_run, tmp_path, console, monkeypatch
):
    workdir, result = whole_run
    save = Checkpoints.save

    def signalled(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)  # goes on in the background
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", signalled)
    stopped = fr.train(config(tmp_path, save_every=3), console)
    assert not stopped.finished
    assert stopped.step in (3, 4)
    assert (tmp_path / "checkpoints" / str(stopped.step)).is_dir()
    assert fr.train(config(tmp_path, save_every=3), console).finished
    assert_same_run(workdir, tmp_path, result.step)


def test_any_changed_bit_changes_the_checksum():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    one = np.asarray(checksum({"n": jnp.int32(3), "w": jnp.asarray(values)}))
    for place in range(6):
        for bit in range(32):
            changed = values.copy()
            changed.view(np.uint32).reshape(-1)[place] ^= np.uint32(1 << bit)
            other = np.asarray(checksum({"n": jnp.int32(3), "w": jnp.asarray(changed)}))
            assert other[0] == one[0]
            assert other[1] != one[1]


def test_a_checkpoint_that_is_not_what_was_saved_is_refused(tmp_path, monkeypatch):
    """Orbax restores a file with another bit without a word."""
    tree = {"state": {"w": jnp.arange(6.0), "n": jnp.int32(3)}}
    folder = Checkpoints(tmp_path)
    folder.save(1, tree)
    assert int(folder.restore(1, tree)["state"]["n"]) == 3
    damaged = {"state": {"w": tree["state"]["w"].at[2].set(7), "n": tree["state"]["n"]}}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "checksum", lambda _: checksum(tree))
        folder.save(2, damaged)
    with pytest.raises(fr.UserError, match=r"2 cannot be read .*checksum differs"):
        folder.restore(2, tree)
    folder.close()


def test_a_killed_run_goes_on_from_its_last_checkpoint_to_the_same_bits(whole_run, tmp_path):
    workdir, result = whole_run
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_loop, flax_resnet as fr\n"
        "fr.train(test_loop.config(sys.argv[2], save_every=3))\n"
    )
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, "-c", script, here, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for(tmp_path / "checkpoints" / "6")
        process.kill()
    assert fr.train(config(tmp_path, save_every=3)).finished
    assert_same_run(workdir, tmp_path, result.step)


def test_a_resumed_run_counts_the_time_up_to_its_checkpoint(tmp_path, console, monkeypatch):
    """It counted that up to the last evaluation."""

    class KilledError(Exception):
        pass

    def kill(number, state, sums):
        if number == 4:
            raise KilledError
        return state, sums

    total = clock.Clock.total.fget
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(clock.Clock, "total", property(lambda self: total(self) + 1e6))
        change_steps(patch, kill)
        fr.train(config(tmp_path, save_every=3), console)
    fr.train(config(tmp_path, save_every=3, max_steps=4), console)
    assert history(tmp_path)[0]["time"] > 1e6


def test_every_process_leaves_out_the_last_line_of_a_finished_run(tmp_path, monkeypatch):
    """Without images a second, it ended the other processes of a command that was repeated."""
    path = tmp_path / "history.jsonl"
    append_history(path, {"step": 3, "images_per_second": 1.0})
    append_history(path, {"step": 3, "best_step": 3})
    recorder = Recorder(None, tmp_path, None, None, None, None, None, None)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    assert recorder.truncate_history(3) == [{"step": 3, "images_per_second": 1.0}]


@pytest.mark.slow
def test_max_steps_ends_early_and_more_of_them_goes_on(whole_run, tmp_path):
    workdir, result = whole_run
    assert fr.train(config(tmp_path, max_steps=7)).step == 7
    # The early end adds its own evaluation and test lines; the step of the first is kept.
    assert fr.train(config(tmp_path)).test == result.test
    lines = [line for line in without_times(history(tmp_path)) if line["step"] != 7]
    assert lines == without_times(history(workdir))


def test_a_finished_run_is_only_evaluated_again(whole_run, console):
    workdir, result = whole_run
    before = history(workdir)
    assert fr.train(config(workdir), console).test == result.test
    assert without_times(history(workdir)) == without_times(before)
    assert "Compiled the train step" not in console.text()


def test_another_config_in_the_same_workdir_is_refused(whole_run):
    workdir, _ = whole_run
    with pytest.raises(fr.UserError, match=r"seed was 0, is now 5"):
        fr.train(config(workdir, seed=5))
    assert json.loads((workdir / "config.json").read_text())["seed"] == 0


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_with_a_sentence(tmp_path):
    wild = dataclasses.replace(BASE.optimizer, learning_rate=1e20)
    with pytest.raises(fr.UserError, match=r"not finite at step \d+.*learning rate"):
        fr.train(config(tmp_path, optimizer=wild))
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_a_damaged_checkpoint_is_named(tmp_path):
    fr.train(config(tmp_path, max_steps=2))
    for path in (tmp_path / "checkpoints" / "2" / "default").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(fr.UserError, match=r"checkpoints.2 cannot be read"):
        fr.train(config(tmp_path, max_steps=4))


@pytest.mark.slow
def test_without_validation_images_the_last_checkpoint_counts(tmp_path):
    data = dataclasses.replace(BASE.data, validation=0.0)
    result = fr.train(config(tmp_path, data=data, max_steps=3))
    assert result.best_step == 3
    assert "val_top1" not in history(tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": ModelConfig(name="resnt50")}, "did you mean .*resnet50"),
        ({"model": ModelConfig(name="resnet_mnist", shortcut="D")}, "shortcut is 'D'; it must be"),
        ({"epochs": 0}, "--epochs is 0"),
        ({"label_smoothing": 1.5}, "--label-smoothing is 1.5"),
    ],
)
def test_impossible_settings_are_told_in_one_sentence(tmp_path, change, message):
    with pytest.raises(fr.UserError, match=message) as caught:
        fr.train(config(tmp_path / "run", **change))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_far_off_settings_are_warned_about(tmp_path, console):
    data = dataclasses.replace(BASE.data, batch_size=4)
    optimizer = dataclasses.replace(BASE.optimizer, learning_rate=5.0, weight_decay=0.5)
    warnings = fr.check_config(config(tmp_path, data=data, optimizer=optimizer))
    assert [word in " ".join(warnings) for word in ("learning rate 5", "decay 0.5", "size 4")]
    assert len(warnings) == 3


def test_a_diverged_state_does_not_replace_the_last_checkpoint(tmp_path, console, monkeypatch):
    """Saved every step, with metrics that are not due: each save is checked before."""
    monkeypatch.setattr(clock.Clock, "log_is_due", lambda self: False)

    def diverge(number, state, sums):
        if number == 3:
            with jax.transfer_guard("allow"):
                sums = jax.tree.map(lambda value: value * jnp.nan, sums)
        return state, sums

    change_steps(monkeypatch, diverge)
    with pytest.raises(fr.UserError, match="not finite at step 3"):
        fr.train(config(tmp_path, save_every=1), console)
    assert max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == 2


@pytest.mark.slow
def test_a_run_of_fewer_steps_than_phases_starts_in_the_last_of_those_at_step_0(tmp_path, console):
    """Two steps for the five stages of ``gradual``: several phases begin at once."""
    few = dataclasses.replace(
        BASE,
        data=dataclasses.replace(BASE.data, batch_size=800),
        transfer=TransferConfig(mode="gradual"),
        epochs=1,
        workdir=str(tmp_path),
    )
    result = fr.train(few, console)
    assert result.finished and result.step == 2
