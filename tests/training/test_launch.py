"""``flax-resnet launch``: several processes of one machine, started and ended together."""

import os
import signal
import subprocess
import sys
from importlib import import_module

import pytest

from flax_resnet.cli import main
from tests.tiny_net import TINY_OPTIONS
from tests.training.test_distributed import ROOT, finish, newest, wait_for

LAUNCH = (sys.executable, "-m", "flax_resnet", "launch", "--processes", "2")
TRAIN = (
    *("train", "--config", "digits", *TINY_OPTIONS),
    *("--data.batch-size", "144", "--compile-cache", "None", "--save-every", "2steps"),
)


def test_wrong_usage_of_the_command_is_reported_once(capfd):
    assert main(["launch", "--processes", "2", "train", "--config", "digits", "--epochs", "x"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("tuned")]
    assert lines == ["error: --epochs is 'x'; it must be an integer."]


def test_debug_reaches_the_processes(monkeypatch, capsys):
    started = []
    module = import_module("flax_resnet.training.launch")
    monkeypatch.setattr(module, "launch", lambda words, processes: started.append(words) or 0)
    assert main(["--debug", "launch", "--processes", "2", "train", "--config", "digits"]) == 0
    assert started == [["train", "--config", "digits", "--debug"]]
    assert main(["launch", "--debug"]) == 2
    assert "--processes is missing" in capsys.readouterr().err


SLEEPERS = """
import os, signal, subprocess, sys, threading
from importlib import import_module

module, start = import_module("flax_resnet.training.launch"), subprocess.Popen

def popen(words, **options):
    child = start(["sleep", "60"], stdin=subprocess.DEVNULL, **options)
    if words[-1] == "1":  # the last process
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
        if sys.argv[1] == "ignored":
            threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return child

module.subprocess.Popen = popen
# The tests themselves may run under nohup.
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "ignored" else signal.SIG_DFL)
try:
    module.launch(["train"], 2)
except module.UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("hangup", "ended_by"), [("usual", "SIGHUP"), ("ignored", "SIGTERM")])
def test_a_closed_terminal_ends_the_processes_too(hangup, ended_by):
    """They went on without the launcher; under nohup all of them go on."""
    done = subprocess.run(
        [sys.executable, "-c", SLEEPERS, hangup], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"Process 0 of 2 ended with signal {ended_by}.\n", done.stderr


def start(workdir, *words, command=TRAIN):
    return subprocess.Popen(
        [*LAUNCH, *command, "--workdir", str(workdir), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        cwd=ROOT,
    )


@pytest.mark.slow
def test_a_signal_stops_all_processes_and_a_killed_one_ends_the_others(tmp_path):
    launched = start(tmp_path, "--epochs", "1000")
    wait_for(tmp_path, 2, launched)
    launched.send_signal(signal.SIGTERM)
    codes, outputs = finish(launched)
    assert codes == [0], outputs
    assert "on 2 CPU devices" in outputs[0] and "The same command resumes" in outputs[0]
    assert "s since this start: " in outputs[0]

    launched = start(tmp_path, "--epochs", "1000")
    wait_for(tmp_path, newest(tmp_path) + 2, launched)  # the children train by then
    children = f"/proc/{launched.pid}/task/{launched.pid}/children"
    with open(children) as file:
        second = int(file.read().split()[1])
    os.kill(second, signal.SIGKILL)
    codes, outputs = finish(launched)
    assert codes == [1]
    assert outputs[0].splitlines()[-1].startswith("error: Process 1 of 2 ended with signal SIGKILL")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [("head",), ("full", "--epochs", "1")], ids=["head", "full"])
def test_fine_tuning_to_the_end_of_an_epoch_and_its_checkpoint(mode, noise_photos, tmp_path):
    """The weights were loaded before the processes were connected, which JAX refuses; and where
    each process has one device, JAX 0.12 made sums that no checkpoint could hold."""
    command = ("finetune", str(noise_photos), "--weights", "resnet20/cifar10", "--mode", *mode)
    launched = start(tmp_path / "run", "--image-size", "16", command=command)
    codes, outputs = finish(launched)
    assert codes == [0], outputs
    assert "on 2 CPU devices" in outputs[0]
    assert newest(tmp_path / "run") > 0
