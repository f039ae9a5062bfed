"""A run that goes on with one, two, then four processes, and other numbers of workers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.weights.formats.checkpoint import read_tree
from tests.ports import free_port
from tests.tiny_net import TINY_OPTIONS

# Trains, and writes the digests of the images and labels that this process makes for each step. The
# page takes as long as the run, and is left out.
PROGRAM = """
import hashlib, json, sys
import flax_resnet.training.run as run
from flax_resnet import cli
from flax_resnet.training import recording

train_batches, log = run.train_batches, sys.argv.pop(1)

def logged(*arguments, start, **options):
    for step, batch in enumerate(train_batches(*arguments, start=start, **options), start):
        rows = zip(batch["image"], batch["label"], strict=True)
        digests = [hashlib.md5(image.tobytes() + bytes([y])).hexdigest() for image, y in rows]
        with open(log, "a") as file:
            file.write(json.dumps([step, digests]) + "\\n")
        yield batch

run.train_batches = logged
recording.write_run_page = lambda workdir, *_: workdir
sys.exit(cli.main(sys.argv[1:]))
"""


def train(photos, workdir, steps, processes, workers):
    """Train to a number of steps; return the digests of the batches' rows by step."""
    port = free_port()
    settings = f"""--config digits {" ".join(TINY_OPTIONS)}
        --data.dir {photos} --data.name folder --data.image-size 16 --data.batch-size 16
        --augment.random-resized-crop --augment.mixup-alpha 0.2 --ema-decay 0.9
        --epochs 10 --evaluate-every 100 --save-every 3 --compile-cache None
        --parallel.timeout 500 --workdir {workdir} --max-steps {steps}
        --data.workers {workers}""".split()
    logs = [workdir.with_name(f"{workdir.name}-{steps}-{number}") for number in range(processes)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(Path(fr.__file__).parents[1]), "JAX_NUM_CPU_DEVICES": "1"}
    started = []
    for number, log in enumerate(logs):
        joint = f"--parallel.coordinator 127.0.0.1:{port} --parallel.processes {processes}".split()
        joint += ["--parallel.process", str(number)]
        command = [sys.executable, "-c", PROGRAM, log, "train", *settings]
        started.append(
            subprocess.Popen(
                [*command, *(joint if processes > 1 else [])],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
        )
    try:
        outputs = [process.communicate(timeout=500)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * processes, outputs
    rows: dict[int, list[str]] = {}
    for log in logs:
        for line in log.read_text().splitlines():
            step, digests = json.loads(line)
            rows.setdefault(step, []).extend(digests)
    return rows


def difference(one, other):
    """The norm of the difference of two trees of arrays, relative to the norm of the second."""
    flat = [
        np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
        for tree in (one, other)
    ]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1])


@pytest.mark.slow
def test_one_two_and_four_processes_take_the_same_images_in_the_same_order(noise_photos, tmp_path):
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    wanted = train(noise_photos, stayed, 6, 1, workers=2)
    assert list(wanted) == list(range(6))
    shutil.copytree(stayed, moved)
    shutil.rmtree(moved / "checkpoints" / "6")  # so that it goes on after step 3
    assert train(noise_photos, moved, 4, 2, workers=3) == {3: wanted[3]}
    assert train(noise_photos, moved, 6, 4, workers=1) == {4: wanted[4], 5: wanted[5]}
    states = [read_tree(run / "checkpoints", 6)["state"] for run in (moved, stayed)]
    for name in ("params", "batch_stats", "ema", "opt_state"):
        relative = difference(*(state[name] for state in states))
        print(f"{name}: {relative:.1e}")
        # Sums over processes are rounded in another order, which may turn some ReLU near zero.
        assert relative < 2e-3, name
