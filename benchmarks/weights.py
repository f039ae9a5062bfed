"""Time and memory of loading resnet50's weights, compared with PyTorch where it is installed.

    python -m benchmarks.weights

Each measurement is a fresh process; the order is mixed. Memory is the growth of the peak resident
set over that of the process once its library was imported, as a multiple of the file's size;
mapped pages of the file itself, which the system can drop, count.
"""

import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPEATS = 5
WORDS = {"ours": "flax_resnet", "torch": "torch.load + load_state_dict"}


def resident(name):
    """Return a line of the process's status in bytes: VmRSS (now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def seconds_and_memory(convert):
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    start = time.perf_counter()
    kept = convert()
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "bytes": resident("VmHWM") - before}
    del kept
    return result


def ours(path):
    import jax

    import flax_resnet as fr

    # JAX's initialisation, which every program needs once: the backend, and tracing.
    jax.devices()
    small = fr.create_model("resnet20")
    jax.eval_shape(lambda: small.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    model = fr.create_model("resnet50")
    return seconds_and_memory(lambda: jax.block_until_ready(fr.load_weights(path, model)))


def pytorch(path):
    import torch

    from tests.weights.torchvision_import import torchvision

    def convert():
        model = torchvision.models.resnet50()
        model.load_state_dict(torch.load(path, weights_only=True))
        return model

    return seconds_and_memory(convert)


def write_files(folder):
    import jax

    import flax_resnet as fr
    from flax_resnet.weights import write_weights

    model = fr.create_model("resnet50")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    endings = [".safetensors", ".npz"]
    if importlib.util.find_spec("torch"):
        endings.append(".pth")
    for ending in endings:
        write_weights(folder / f"resnet50{ending}", fr.to_torchvision(variables, model))
    return endings


def main():
    with tempfile.TemporaryDirectory() as scratch:
        endings = write_files(Path(scratch))
        jobs = [("ours", ending) for ending in endings]
        if ".pth" in endings and importlib.util.find_spec("torchvision"):
            jobs.append(("torch", ".pth"))
        found = {job: [] for job in jobs}
        runs = jobs * REPEATS
        random.Random(0).shuffle(runs)
        for who, ending in runs:
            path = f"{scratch}/resnet50{ending}"
            command = [sys.executable, "-m", "benchmarks.weights", who, path]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[who, ending].append(json.loads(done.stdout.splitlines()[-1]))
        for (who, ending), results in found.items():
            size = Path(f"{scratch}/resnet50{ending}").stat().st_size
            seconds = statistics.median(result["seconds"] for result in results)
            memory = statistics.median(result["bytes"] for result in results) / size
            print(f"{WORDS[who]:30}{ending:13}{seconds:6.2f} s  {memory:5.2f} x the file")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps({"ours": ours, "torch": pytorch}[sys.argv[1]](sys.argv[2])))
    else:
        main()
