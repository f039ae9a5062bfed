"""When checkpoints are saved between evaluations, and what follows a save that fails."""

import shutil
import threading
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from jax.experimental import multihost_utils

import flax_resnet as fr
from flax_resnet.config import Interval, parse_interval
from flax_resnet.training import Checkpoints, checkpoint, saving
from flax_resnet.training.saving import SaveSchedule
from tests.training.test_loop import BASE, config

pytestmark = pytest.mark.usefixtures("no_page")
TREE = {"w": jnp.arange(1000.0)}


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        (5, Interval(5, "steps")),
        ("500steps", Interval(500, "steps")),
        ("0.5epoch", Interval(0.5, "epochs")),
        ("90s", Interval(90, "seconds")),
        ("10min", Interval(600, "seconds")),
        ("2h", Interval(7200, "seconds")),
        (None, None),
    ],
)
def test_intervals_are_read(text, interval):
    assert parse_interval("save-every", text) == interval


@pytest.mark.parametrize("text", ["10 minutes", "0", "1.5", "-3", "min", ""])
def test_what_is_no_interval_is_refused(text):
    with pytest.raises(fr.UserError, match="--save-every is"):
        parse_interval("save-every", text)


def due_steps(interval, seconds_each, *, steps=40, blocked=0.0, background=0.0):
    """The steps after which a run of four steps an epoch saves."""
    now = [0.0]
    quiet = SimpleNamespace(retry_is_due=False, is_saving=False, background_seconds=background)
    schedule = SaveSchedule(interval, lambda step: step / 4, quiet, lambda: now[0])
    found = []
    for step in range(1, steps + 1):
        now[0] += seconds_each
        if schedule.is_due(step):
            found.append(step)
            now[0] += blocked
            schedule.saved(step, blocked)
    return found


def test_saves_by_steps_epochs_and_time():
    assert due_steps(Interval(15, "steps"), 1.0) == [15, 30]
    assert due_steps(Interval(2, "epochs"), 1.0) == [8, 16, 24, 32, 40]
    assert due_steps(Interval(10, "seconds"), 1.0) == [10, 20, 30, 40]
    assert due_steps(None, 100.0) == []


def test_saves_by_time_take_less_than_a_hundredth_of_it():
    """A save of 0.2 s in every 10 s would be 2 %."""
    assert due_steps(Interval(10, "seconds"), 1.0, blocked=0.2) == [10, 30]


def test_saves_in_the_background_take_less_than_a_hundredth_of_the_cores(monkeypatch):
    """One core of four for 2 s is 1 % of 50 s; an accelerator loses nothing."""
    monkeypatch.setattr(saving, "available_cores", lambda: 4)
    interval = Interval(10, "seconds")
    assert due_steps(interval, 1.0, steps=130, background=2.0) == [10, 60, 110]
    assert due_steps(interval, 60.0, steps=25, background=99.0) == [1, 11, 21]  # 10 min at most
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert due_steps(interval, 1.0, steps=30, background=2.0) == [10, 20, 30]


def test_processes_agree_on_saves_by_time_at_few_steps(monkeypatch):
    """From a minute after a save on, they waited for each other at every step."""
    sent = []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda message: sent.append(message) or message
    )
    assert due_steps(Interval(600, "seconds"), 1.0, steps=650) == [600]
    assert len(sent) < 60


def test_too_little_space_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    reports = []
    checkpoints = Checkpoints(tmp_path, on_error="continue", report=reports.append)
    checkpoints.save(1, TREE, wait=True)
    monkeypatch.setattr(checkpoint, "PAUSE_SECONDS", 0)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=100))
        checkpoints.save(2, TREE)
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        (text,) = reports
        assert "it needs 1.1 MB and 0.0 MB are free); that of step 1 is kept" in text
        assert "Training goes on" in text and "\n" not in text
        with pytest.raises(fr.UserError, match=r"it needs 1\.1 MB"):
            checkpoints.save(3, TREE, wait=True)  # the last of a run
    checkpoints.save(4, TREE, wait=True)
    assert checkpoints.latest_step() == 4
    checkpoints.close()


def test_a_save_that_hangs_ends_in_a_sentence(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints, "_timeout", -9.8)  # and ten seconds more
    release = threading.Event()
    monkeypatch.setattr(checkpoints._manager, "save", lambda *_, **__: release.wait(60))
    with pytest.raises(fr.UserError, match=r"did not end in .* \(--checkpoint.timeout\)"):
        checkpoints.save(1, TREE)
    checkpoints.close()  # does not wait either
    release.set()


@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_a_run_whose_saves_fail(tmp_path, console, monkeypatch, on_error):
    """It ends with the last save, which succeeds again; or at the third failure."""
    monkeypatch.setattr(checkpoint, "PAUSE_SECONDS", 0)
    check = Checkpoints._check_space
    calls = []

    def full(self, tree):
        calls.append(1)
        if 2 <= len(calls) <= 4:
            raise OSError(28, "No space left on device")
        check(self, tree)

    monkeypatch.setattr(Checkpoints, "_check_space", full)
    settings = config(
        tmp_path,
        save_every=1,
        max_steps=4,
        checkpoint=fr.config.CheckpointConfig(on_error=on_error),
        data=BASE.data,
    )
    if on_error == "stop":
        with pytest.raises(fr.UserError, match=r"no space is left there.*step 1 is kept"):
            fr.train(settings, console)
        return
    assert fr.train(settings, console).step == 4
    assert console.text().count("could not be written") == 1
    assert "no space is left there" in console.text()
