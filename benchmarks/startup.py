"""Start-up times of this package and of PyTorch, from the start of a process.

    python -m benchmarks.startup [--repeats 5]        # needs the extra torch

The seconds until resnet50 is imported and created; until its first training step (8 images of
224x224, SGD with momentum) is done; until its first photo is classified, from a ``.pth`` file: ours
with ``flax-resnet predict``, PyTorch's with a script of ten lines. Ours compiles: "nothing compiled
before" has an empty compilation cache, "compiled before" that of an earlier process of the same
kind. Each figure is the median of fresh processes, in random order.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TORCHVISION = "from tests.weights.torchvision_import import torchvision\n"

OUR_STEP = """
import jax, jax.numpy as jnp, numpy as np, optax
import flax_resnet as fr
from flax_resnet.models import QUICK_COMPILATION
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
model, tx = fr.create_model("resnet50"), optax.sgd(0.01, momentum=0.9)
images = jnp.asarray(np.random.default_rng(0).normal(size=(8, 224, 224, 3)), jnp.float32)
step = fr.TrainStep(model, tx)
init = jax.jit(lambda key: step.init(key, images), compiler_options=QUICK_COMPILATION)
batch = {"image": images, "label": jnp.arange(8)}
_, metrics = jax.jit(step, donate_argnums=0)(init(jax.random.key(0)), batch)
float(metrics["loss"])
"""

PYTORCH_STEP = (
    "import torch\n"
    + TORCHVISION
    + """
model = torchvision.models.resnet50().to(memory_format=torch.channels_last)
tx = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
images = torch.randn(8, 3, 224, 224).to(memory_format=torch.channels_last)
loss = torch.nn.functional.cross_entropy(model(images), torch.arange(8))
loss.backward()
tx.step()
loss.item()
"""
)

PYTORCH_PREDICTION = (
    "import sys, torch\nfrom PIL import Image\n"
    + TORCHVISION
    + """
model = torchvision.models.resnet50()
model.load_state_dict(torch.load(sys.argv[1]))
model.eval()
transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
with torch.inference_mode():
    print(model(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).argmax(1))
"""
)

# The words after the interpreter of our program and of PyTorch's; {pth} and {photo} are files.
OUR_IMPORT = "import flax_resnet as fr; fr.create_model('resnet50')"
PYTORCH_IMPORT = TORCHVISION + "torchvision.models.resnet50()"
PROGRAMS = {
    "made": (["-c", OUR_IMPORT], ["-c", PYTORCH_IMPORT]),
    "first step": (["-c", OUR_STEP], ["-c", PYTORCH_STEP]),
    "first prediction": (
        ["-m", "flax_resnet", "predict", "{pth}", "{photo}"],
        ["-c", PYTORCH_PREDICTION, "{pth}", "{photo}"],
    ),
}
COMPILES = ("first step", "first prediction")


def seconds(words, cache):
    """Return the seconds of one process from its start to its end."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words[:3]}: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def make_files(folder):
    import numpy as np
    import torch
    from PIL import Image

    from tests.weights.torchvision_import import torchvision

    pth, photo = folder / "resnet50.pth", folder / "photo.jpg"
    torch.save(torchvision.models.resnet50().state_dict(), pth)
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    return {"pth": str(pth), "photo": str(photo)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        files = make_files(Path(scratch))
        programs = {
            what: [
                [word.format(**files) if word[0] == "{" else word for word in words]
                for words in sides
            ]
            for what, sides in PROGRAMS.items()
        }
        kept = Path(scratch, "kept")
        for what in COMPILES:
            seconds(programs[what][0], kept)
        turns = list(programs) * options.repeats
        random.Random(0).shuffle(turns)
        for turn, what in enumerate(turns):
            ours, pytorch = programs[what]
            row = {"compiled before": seconds(ours, kept), "PyTorch": seconds(pytorch, kept)}
            if what in COMPILES:
                row["nothing compiled before"] = seconds(ours, Path(scratch, f"empty{turn}"))
            for name, value in row.items():
                found.setdefault((what, name), []).append(value)
    names = ("nothing compiled before", "compiled before", "PyTorch")
    print(f"{'seconds until':20}" + "".join(f"{name:>26}" for name in names))
    for what in PROGRAMS:
        cells = (found.get((what, name)) for name in names)
        print(
            f"{what:20}"
            + "".join(f"{statistics.median(c) if c else float('nan'):26.1f}" for c in cells)
        )


if __name__ == "__main__":
    main()
