"""Runs of two processes on this machine's loopback, two devices each; of one, three and eight."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import flax_resnet as fr
from flax_resnet.weights.formats.checkpoint import read_checkpoint
from tests.ports import free_port
from tests.tiny_net import TINY_OPTIONS

ROOT = Path(fr.__file__).parents[1]
SETTINGS = (
    *("--config", "digits", *TINY_OPTIONS, "--data.batch-size", "144"),
    *("--optimizer.schedule", "constant", "--compile-cache", "None", "--evaluate-every", "100"),
)


# Trains. Process 1 takes longer to read its data than Gloo waits for it, and process 0 takes longer
# for the page than JAX waits for it at the exit.
PROGRAM = """
import sys, time
import jax
from flax_resnet import cli
from flax_resnet.training import loop, recording

initialize, write_run_page = jax.distributed.initialize, recording.write_run_page
resolve = loop.resolve

def with_short_exit(*arguments, **options):
    initialize(*arguments, **options | {"shutdown_timeout_seconds": 15})

def resolve_slowly(*arguments):
    time.sleep(33 * jax.process_index())
    return resolve(*arguments)

def write_slowly(*arguments):
    time.sleep(18)
    return write_run_page(*arguments)

jax.distributed.initialize, recording.write_run_page = with_short_exit, write_slowly
loop.resolve = resolve_slowly
sys.exit(cli.main(sys.argv[1:]))
"""


# Trains without the page, which takes as long as the run.
QUICK = """
import sys
from flax_resnet import cli
from flax_resnet.training import recording

recording.write_run_page = lambda workdir, *_: workdir
sys.exit(cli.main(sys.argv[1:]))
"""


def start(workdir, *settings, devices=1, program=("-c", QUICK)):
    """A training process of so many devices."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, *program, "train", *SETTINGS]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def start_two(workdir, *settings, program=("-m", "flax_resnet")):
    joint = ("--parallel.coordinator", f"127.0.0.1:{free_port()}", "--parallel.processes", "2")
    own = [("--parallel.process", str(number)) for number in range(2)]
    return [start(workdir, *joint, *one, *settings, devices=2, program=program) for one in own]


def finish(*processes, seconds=600):
    """Exit codes and output of the processes."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def history(workdir):
    return [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]


def arrays(workdir, step):
    """The state saved at a step, read on one device whatever devices wrote it."""
    path, reader = workdir / "checkpoints" / str(step) / "default", ocp.StandardCheckpointer()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        reader.metadata(path).item_metadata.tree,
    )
    tree = reader.restore(path, target)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree["state"])]


def newest(workdir):
    """Step of the newest finished checkpoint; 0 for none. Older ones are deleted as it goes."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def wait_for(workdir, step, *processes, seconds=400):
    until = time.monotonic() + seconds
    while newest(workdir) < step:
        if time.monotonic() > until or any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            outputs = [process.communicate()[0] for process in processes]
            raise AssertionError(f"no checkpoint of step {step}: {outputs}")
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_takes_up_what_they_saved(tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    codes, outputs = finish(*start_two(two, "--max-steps", "4", program=("-c", PROGRAM)))
    assert codes == [0, 0], outputs
    assert "4 CPU devices" in outputs[0]
    assert "loss" not in outputs[1]  # process 0 alone reports
    assert "Slowest at the last evaluation: in its own input and code process" in outputs[0]
    codes, outputs = finish(start(one, "--max-steps", "4", devices=4))
    assert codes == [0], outputs
    for ours, theirs in zip(history(two), history(one), strict=True):
        if "digest" in ours:  # the last line is of the tests
            for name in ("host", "device"):
                assert 0 < ours.pop(f"{name}_seconds") <= ours.pop(f"slowest_{name}_seconds")
                assert ours.pop(f"slowest_{name}") in (0, 1)
        for name in set(ours) - {"time", "images_per_second", "data_wait", "digest", "checksum"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    for ours, theirs in zip(arrays(two, 4), arrays(one, 4), strict=True):
        # As wholes: sums over processes are rounded in another order, and in float32 that turns
        # some ReLU of an input near zero, which single weights see four steps later.
        assert np.linalg.norm(ours - theirs) <= 2e-3 * np.linalg.norm(theirs)
    # One process of one device takes it up: to the bit, as the sums that the two saved with it say.
    codes, outputs = finish(start(two, "--max-steps", "5"))
    assert codes == [0], outputs
    assert "Resuming from the checkpoint after step 4" in outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_makes_the_other_stop_with_a_sentence(tmp_path, victim):
    settings = ("--epochs", "1000", "--save-every", "2", "--parallel.timeout", "10")
    processes = start_two(tmp_path, *settings)
    wait_for(tmp_path, 4, *processes)
    processes[victim].kill()
    began = time.monotonic()
    codes, outputs = finish(processes[1 - victim], seconds=90)
    assert time.monotonic() - began < 40
    assert codes == [1], outputs
    assert "another process of this run is gone" in outputs[0].splitlines()[-1]
    finish(processes[victim])
    step, _ = read_checkpoint(tmp_path / "checkpoints")  # or an error, were it not whole
    assert step >= 4
    more = ("--max-steps", str(newest(tmp_path) + 1), "--epochs", "1000", "--save-every", "2")
    codes, outputs = finish(start(tmp_path, *more))
    assert codes == [0], outputs


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path):
    settings = ("--epochs", "1000", "--save-every", "2")
    processes = start_two(tmp_path, *settings)
    wait_for(tmp_path, 2, *processes)
    processes[1].send_signal(signal.SIGTERM)
    began = time.time()
    codes, outputs = finish(*processes)
    assert codes == [0, 0], outputs
    stopped = re.search(r"Stopped after step ([\d,]+); saved. The same command", outputs[0])
    assert stopped and int(stopped[1].replace(",", "")) == newest(tmp_path), outputs
    # The folder of a checkpoint gets its name when all of it is written.
    saved = (tmp_path / "checkpoints" / str(newest(tmp_path))).stat().st_ctime
    print(f"The checkpoint was complete {saved - began:.1f} s after the signal.")
    steps = str(newest(tmp_path) + 2)
    codes, outputs = finish(*start_two(tmp_path, *settings, "--max-steps", steps))
    assert codes == [0, 0], outputs
    assert newest(tmp_path) == int(steps)


@pytest.mark.slow
def test_files_that_one_of_two_processes_cannot_read_are_named(noise_photos, tmp_path):
    """Only those that process 0 met were."""
    damaged = sorted(noise_photos.glob("*/*.png"))[::8]
    for number, path in enumerate(damaged):
        path.write_bytes(b"<html>%d" % number)
    photos = ("--data.name", "folder", "--data.dir", str(noise_photos), "--data.image-size", "16")
    more = ("--augment.random-resized-crop", "--epochs", "6")
    run = tmp_path / "run"
    codes, outputs = finish(*start_two(run, *photos, *more))
    assert codes == [0, 0], outputs
    assert [outputs[0].count(f"left out: {path} ") for path in damaged] == [1] * len(damaged)
    assert len(json.loads((run / "report" / "data.json").read_text())["bad"]) == len(damaged)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    """One, eight, then three devices: the losses of one alone, so the same images in the same
    order."""
    moved, stayed = tmp_path / "moved", tmp_path / "stayed"
    for workdir, step, devices in ((stayed, 6, 1), (moved, 2, 1), (moved, 4, 8), (moved, 6, 3)):
        codes, outputs = finish(start(workdir, "--max-steps", str(step), devices=devices))
        assert codes == [0], outputs
    one, other = (
        {k: v for line in history(run) for k, v in line.items()} for run in (moved, stayed)
    )
    assert one["step"] == other["step"] == 6
    for name in ("train_loss", "val_loss", "test_loss"):  # that of training is of all six steps
        assert one[name] == pytest.approx(other[name], rel=1e-3)
