"""Photos a second of prediction with resnet50 and with PyTorch, in turns.

    python -m benchmarks.predict PHOTOS [--count 256] [--repeats 3]

Ours is what ``flax-resnet predict`` runs: decoding in threads, batch norm folded, batches of 32.
PyTorch's is torchvision's resnet50 in eval mode, channels_last, batches of 32 from a DataLoader
with two workers, as in the usual tutorial. Both read the same files, resize to 256 and crop 224,
start from the file names and end with the classes; both are warm (compiled, workers started). The
ratio is that of the medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def ours(paths, state_dict):
    import flax_resnet as fr
    from flax_resnet.weights import write_weights

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet50.safetensors"
        write_weights(file, state_dict)
        classifier = fr.load(file)
    return lambda: classifier.predict(paths).probabilities.argmax(1)


class Photos:
    """The data set of the PyTorch script."""

    def __init__(self, paths):
        self._paths, self._transform = paths, None

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        if self._transform is None:  # in the worker
            from tests.weights.torchvision_import import torchvision

            weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
            self._transform = weights.transforms()
        return self._transform(Image.open(self._paths[index]).convert("RGB"))


def pytorch(paths, state_dict):
    import torch
    from torch.utils.data import DataLoader

    from tests.weights.torchvision_import import torchvision

    loader = DataLoader(
        Photos(paths),
        batch_size=32,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a fork of a process that runs JAX may hang
    )
    model = torchvision.models.resnet50()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state_dict.items()})
    model.eval().to(memory_format=torch.channels_last)

    def predict():
        found = []
        with torch.inference_mode():
            for images in loader:
                images = images.to(memory_format=torch.channels_last)
                found.append(model(images).argmax(1))
        return torch.cat(found).numpy()

    return predict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    files = sorted(map(str, options.photos.rglob("*.jpg")))
    paths = files[:: max(1, len(files) // options.count)][: options.count]
    import torch

    from tests.weights.torchvision_import import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    state_dict = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    sides = {"flax_resnet": ours(paths, state_dict), "PyTorch": pytorch(paths, state_dict)}
    answers = {name: predict() for name, predict in sides.items()}  # compiles, fills the caches
    same = np.mean(answers["flax_resnet"] == answers["PyTorch"])
    rates = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, predict in sides.items():
            began = time.perf_counter()
            predict()
            rates[name].append(len(paths) / (time.perf_counter() - began))
            print(f"{name:12} {rates[name][-1]:6.1f} images/s", flush=True)
    median = {name: statistics.median(found) for name, found in rates.items()}
    print(f"{len(paths)} photos a pass, {options.repeats} passes each; same class: {same:.1%}")
    print("  ".join(f"{name} {rate:.1f} images/s" for name, rate in median.items()))
    print(f"ratio {median['flax_resnet'] / median['PyTorch']:.2f}")


if __name__ == "__main__":
    main()
