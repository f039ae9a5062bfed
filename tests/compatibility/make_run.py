"""Write the run of this version that later versions must load: VERSION.zip and VERSION.json.

    python -m tests.compatibility.make_run

The JSON holds images and their logits by a forward pass in NumPy, which knows nothing of ours but
the files of the run. Run it once for each released version, and never change what it wrote.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

import flax_resnet as fr

HERE = Path(__file__).parent
OPTIONS = (
    *("--config", "digits", "--epochs", "8", "--optimizer.warmup-epochs", "1"),
    *("--model.name", "resnet", "--model.stage-sizes", "1", "--model.block", "basic"),
    *("--model.widths", "8", "--model.stem", "cifar"),
)


def forward(arrays, x):
    """Logits of a stem and one basic block by PyTorch's arrays; ``x`` is ``[N, H, W, C]``."""

    def conv(x, kernel):  # [out, in, 3, 3], padded by 1
        _, height, width, _ = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return sum(
            padded[:, i : i + height, j : j + width] @ kernel[:, :, i, j].T
            for i in range(3)
            for j in range(3)
        )

    def norm(x, name):
        scale = arrays[f"{name}.weight"] / np.sqrt(arrays[f"{name}.running_var"] + 1e-5)
        return (x - arrays[f"{name}.running_mean"]) * scale + arrays[f"{name}.bias"]

    x = np.maximum(norm(conv(x, arrays["conv1.weight"]), "bn1"), 0)
    y = np.maximum(norm(conv(x, arrays["layer1.0.conv1.weight"]), "layer1.0.bn1"), 0)
    y = norm(conv(y, arrays["layer1.0.conv2.weight"]), "layer1.0.bn2")
    features = np.maximum(x + y, 0).mean((1, 2))
    return features @ arrays["fc.weight"].T + arrays["fc.bias"]


def main():
    """Train the run, and write both files."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch, "run")
        command = [sys.executable, "-m", "flax_resnet", "train", *OPTIONS, "--workdir", run]
        subprocess.run(command, check=True)
        shutil.rmtree(run / "report")  # a page for people
        images = (load_digits().images[:12] * 255 / 16).round().astype(np.uint8)[..., None]
        transform = json.loads((run / "preprocessing.json").read_text())
        x = (images / 255 - transform["mean"]) / transform["std"]
        arrays = {
            name: array.astype(np.float64)
            for name, array in load_file(run / "model.safetensors").items()
        }
        recorded = {"images": images.tolist(), "logits": forward(arrays, x).tolist()}
        (HERE / f"{fr.__version__}.json").write_text(json.dumps(recorded) + "\n")
        shutil.make_archive(str(HERE / fr.__version__), "zip", run)


if __name__ == "__main__":
    main()
