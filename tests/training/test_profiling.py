"""``--profile``: a trace of some steps, and a table of where the time went."""

import dataclasses
import io
import json
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.config import AugmentConfig, Config, DataConfig
from flax_resnet.report.run_profile import RunProfile, read_profile, write_profile
from flax_resnet.training.clock import Clock
from flax_resnet.training.profiling import Profiler
from flax_resnet.training.stragglers import process_times, slowest_of, slowest_text
from tests.tiny_net import TINY


def test_only_the_steps_that_were_asked_for_are_traced(tmp_path):
    text = io.StringIO()
    profiler = Profiler(2, tmp_path, 6, Console(file=text, width=400))
    double = jax.jit(lambda x: 2 * x)
    for index, batch in enumerate(profiler.waits([1, 2, 3, 4, 5, 6])):
        assert profiler.step(index, double, jnp.asarray(batch)) == 2 * batch
    with profiler.time("evaluation"):
        time.sleep(0.05)
    profiler.close()
    found = read_profile(tmp_path / "report")
    assert (found.steps, found.first, found.first_traced, found.traced) == (6, 1, 3, 2)
    assert found.activities["step"][1] == 6 and found.activities["input"][1] == 7  # and the end
    assert 0.05 <= found.activities["evaluation"][0] <= found.seconds
    assert len(list(tmp_path.glob("trace/**/*.trace.json.gz"))) == 1
    shown = text.getvalue()
    assert "time of 6 steps, from step 1 on" in shown and "The trace of steps 3 to 4" in shown


def test_the_rows_add_up():
    profile = RunProfile(4, 1, 3, 2, 10.0, {"step": (6.0, 4), "input": (1.0, 5)})
    rows = profile.rows()
    assert rows[0] == ("input: waiting for batches", "1.00", "10.0%", "5", "200.0")
    assert rows[1] == ("steps", "6.00", "60.0%", "4", "1,500.0")
    assert rows[2] == ("all else", "3.00", "30.0%", "", "")
    assert rows[3] == ("together", "10.00", "100.0%", "", "")


def test_without_a_profile_nothing_is_waited_for_or_written(tmp_path):
    profiler = Profiler(None, tmp_path, 6, Console(file=io.StringIO()))
    assert profiler.step(0, lambda x: x, "not an array") == "not an array"
    profiler.close()
    assert not list(tmp_path.iterdir())


def test_the_line_on_the_time_adds_up(monkeypatch):
    now = iter([0.0, 10.0, 16.0, 20.0, 23.0, 30.0, 31.0, 40.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    profiler = Profiler(None, None, 6, Console(file=io.StringIO()))
    profiler.step(0, lambda: None)  # 6 s to start it, and 3 s until its end
    with profiler.time("step", times=0):
        pass
    with profiler.time("evaluation"):
        pass
    assert profiler.goodput() == (
        "40 s since this start: 22% steps, 0% waiting for input, 2% evaluation, 0% saving, "
        "0% compiling, 75% all else."
    )


def test_the_slowest_process_is_named():
    """Of three, in the times that each has by itself: what all wait for is left out."""
    hosts = slowest_of("host", np.array([0.001, 0.004, 0.002], np.float32))
    devices = slowest_of("device", np.array([0.05, 0.01, 0.01], np.float32))
    assert hosts == {"host_seconds": 0.002, "slowest_host_seconds": 0.004, "slowest_host": 1}
    line = {"step": 1, **hosts, **devices}
    text = slowest_text([{"step": 0}, line, {"step": 1, "best_step": 1}])
    assert "own input and code process 1: 4.0 ms (median 2.0 ms) a step" in text
    assert "on its devices process 0: 50.0 ms (median 10.0 ms)" in text
    assert process_times(1.0) == {} and slowest_text([{"step": 0}]) == ""  # one process


def test_what_a_host_spends_by_itself_is_without_steps_and_saves(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    profiler = Profiler(None, None, 6, Console(file=io.StringIO()))
    clock = Clock(8, types.SimpleNamespace(waited=0.0), 0.0, profiler)

    def spend(seconds):
        now[0] += seconds

    for _ in range(2):
        spend(0.5)  # waiting for its input
        profiler.step(0, spend, 7.0)
        clock.steps += 1
    with profiler.time("checkpoint"):
        spend(9.0)
    assert clock.host_seconds == 0.5
    clock.restart()
    assert clock.host_seconds == 0.0


def test_another_profiler_that_runs_is_one_sentence(tmp_path):
    profiler = Profiler(1, tmp_path / "run", 1, Console(file=io.StringIO()))
    with jax.profiler.trace(tmp_path / "other"), pytest.raises(fr.UserError, match="cannot be st"):
        profiler.step(0, lambda: None)


def test_a_trace_that_cannot_be_written_is_a_note(tmp_path, monkeypatch):
    text = io.StringIO()
    profiler = Profiler(1, tmp_path, 1, Console(file=text, width=400))

    def fail():
        jax.profiler._stop()
        raise OSError("No space left on device")

    monkeypatch.setattr(jax.profiler, "_stop", jax.profiler.stop_trace, raising=False)
    monkeypatch.setattr(jax.profiler, "stop_trace", fail)
    profiler.step(0, lambda: None)
    profiler.close()
    shown = text.getvalue()
    assert "The trace could not be written: OSError: No space left on device." in shown
    assert "time of 1 step," in shown and "The trace of" not in shown


def test_a_damaged_profile_is_one_sentence(tmp_path):
    write_profile(tmp_path, RunProfile(4, 1, 3, 2, 10.0, {"step": (6.0, 4)}))
    path = tmp_path / "profile.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(fr.UserError, match="delete it"):
        read_profile(tmp_path)


@pytest.mark.parametrize("number", ["0", "-1"])
def test_impossible_numbers_are_refused(number, capfd):
    assert main(["train", "--config", "digits", "--profile", number]) == 2
    assert f"--profile is {number}; it must be above 0." in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_prints_its_profile_and_shows_it_on_its_page(tmp_path, capfd):
    config = Config(
        model=TINY,
        data=DataConfig(name="digits", batch_size=128),
        augment=AugmentConfig(crop_padding=1, flip=False),
        epochs=1,
        compile_cache=None,
        workdir=str(tmp_path / "run"),
        profile=3,
    )
    fr.train(config)
    shown = capfd.readouterr().out
    for label in ("input: waiting", "steps", "evaluation", "checkpoints", "The trace of steps"):
        assert label in shown
    found = json.loads((tmp_path / "run" / "report" / "profile.json").read_text())
    assert found["traced"] == 3 and set(found["activities"]) >= {"step", "evaluation", "checkpoint"}
    assert 0 < sum(seconds for seconds, _ in found["activities"].values()) <= found["seconds"]
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert 'id="section-time"' in page and "input: waiting for batches" in page
    assert 'id="heat"' in page  # Grad-CAM over the worst mistakes and the most certain hits
    fr.train(config)
    assert "No step was left to profile" in capfd.readouterr().out
    head = dataclasses.replace(config.transfer, mode="head", weights=str(tmp_path / "run"))
    with pytest.raises(fr.UserError, match="L-BFGS fits this head without any"):
        fr.train(dataclasses.replace(config, transfer=head, workdir=str(tmp_path / "head")))
