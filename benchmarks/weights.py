"""Time and memory of loading resnet50's weights, compared with PyTorch where it is installed.

    python -m benchmarks.weights

Each measurement is a process of its own, and their order is shuffled. flax_resnet's time is that of
``load_weights`` for a model that exists, which holds no arrays; PyTorch's is that of ``torch.load``
and ``load_state_dict``, without and with that of building the model. Memory is the peak resident
set during the loading less the resident set before it (for PyTorch, before the building), as a
multiple of the file's size. Mapped pages of the file count, although the system can drop them.
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
LABELS = {
    "flax_resnet": "flax_resnet: load_weights",
    "pytorch": "PyTorch: torch.load, load_state_dict",
    "pytorch_build": "PyTorch: build, torch.load, load_state_dict",
}


def resident(name):
    """Return the resident set of this process in bytes: now ("VmRSS") or its peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def seconds_and_memory(load):
    """Return the seconds of a call and the growth of the peak resident set during it."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    start = time.perf_counter()
    kept = load()
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "bytes": resident("VmHWM") - before}
    del kept
    return result


def measure_flax_resnet(path):
    import jax

    import flax_resnet as fr

    # JAX's initialisation, which every program needs once: the backend, and tracing.
    jax.devices()
    small = fr.create_model("resnet20")
    jax.eval_shape(lambda: small.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    model = fr.create_model("resnet50")
    return seconds_and_memory(lambda: jax.block_until_ready(fr.load_weights(path, model)))


def measure_pytorch(path):
    import torch

    from tests.weights.torchvision_import import torchvision

    seconds = []

    def load():
        model = torchvision.models.resnet50()
        start = time.perf_counter()
        model.load_state_dict(torch.load(path, weights_only=True))
        seconds.append(time.perf_counter() - start)
        return model

    whole = seconds_and_memory(load)
    return {"pytorch": {**whole, "seconds": seconds[0]}, "pytorch_build": whole}


def measure_ours(path):
    return {"flax_resnet": measure_flax_resnet(path)}


def write_files(folder):
    import jax

    import flax_resnet as fr
    from flax_resnet.weights import write_weights

    model = fr.create_model("resnet50")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 32, 32, 3))))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    extensions = [".safetensors", ".npz"]
    if importlib.util.find_spec("torch"):
        extensions.append(".pth")
    for extension in extensions:
        write_weights(folder / f"resnet50{extension}", fr.to_torchvision(variables, model))
    return extensions


def main():
    with tempfile.TemporaryDirectory() as scratch:
        extensions = write_files(Path(scratch))
        jobs = [("flax_resnet", extension) for extension in extensions]
        if ".pth" in extensions and importlib.util.find_spec("torchvision"):
            jobs.append(("pytorch", ".pth"))
        results = {}
        schedule = jobs * REPEATS
        random.Random(0).shuffle(schedule)
        for library, extension in schedule:
            path = f"{scratch}/resnet50{extension}"
            command = [sys.executable, "-m", "benchmarks.weights", library, path]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for label, result in json.loads(done.stdout.splitlines()[-1]).items():
                results.setdefault((label, extension), []).append(result)
        for (library, extension), measurements in sorted(results.items()):
            size = Path(f"{scratch}/resnet50{extension}").stat().st_size
            seconds = statistics.median(result["seconds"] for result in measurements)
            memory = statistics.median(result["bytes"] for result in measurements) / size
            print(f"{LABELS[library]:45}{extension:13}{seconds:6.2f} s  {memory:5.2f} x the file")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure = {"flax_resnet": measure_ours, "pytorch": measure_pytorch}[sys.argv[1]]
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
