"""Photos per second of prediction with resnet50, of flax_resnet and of PyTorch alternately.

    python -m benchmarks.predict PHOTOS [--count 256] [--repeats 3]

flax_resnet runs ``Classifier.predict``, as ``flax-resnet predict`` does: decoding in threads, batch
norm folded, batches of 32. PyTorch runs torchvision's resnet50 in eval mode, channels_last, on
batches of 32 from a DataLoader with two workers, as in the usual tutorial. Both have the same
random weights, read the same files, resize to 256 and crop 224. A pass is timed from file names to
probabilities, after a first pass that compiles and starts the workers; the ratio is that of the
median rates. Predictions are compared by their log-probabilities, because random weights make the
most probable classes nearly equal.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def flax_resnet_predictor(paths, state_dict):
    """Return a function that predicts the probabilities of the photos with flax_resnet."""
    import flax_resnet as fr
    from flax_resnet.weights import write_weights

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "resnet50.safetensors"
        write_weights(file, state_dict)
        classifier = fr.load(file)
    return lambda: classifier.predict(paths).probabilities


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


def pytorch_predictor(paths, state_dict):
    """Return a function that predicts the probabilities of the photos with PyTorch."""
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
        batches = []
        with torch.inference_mode():
            for images in loader:
                images = images.to(memory_format=torch.channels_last)
                batches.append(model(images).softmax(1))
        return torch.cat(batches).numpy()

    return predict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    files = sorted(map(str, options.photos.rglob("*.jpg")))
    if not files:
        parser.error(f"{options.photos} has no .jpg files: give a folder of photos")
    paths = files[:: max(1, len(files) // options.count)][: options.count]
    import torch

    from tests.weights.torchvision_import import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    state_dict = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    backends = {
        "flax_resnet": flax_resnet_predictor(paths, state_dict),
        "PyTorch": pytorch_predictor(paths, state_dict),
    }
    predictions = {name: predict() for name, predict in backends.items()}  # the first pass
    difference = np.log(predictions["flax_resnet"]) - np.log(predictions["PyTorch"])
    rates = {name: [] for name in backends}
    for _ in range(options.repeats):
        for name, predict in backends.items():
            start = time.perf_counter()
            predict()
            rates[name].append(len(paths) / (time.perf_counter() - start))
            print(f"{name:12} {rates[name][-1]:6.1f} images/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{len(paths)} photos per pass, {options.repeats} passes each")
    print(f"largest difference of log-probabilities: {np.abs(difference).max():.2g}")
    print("  ".join(f"{name} {rate:.1f} images/s" for name, rate in medians.items()))
    print(f"ratio {medians['flax_resnet'] / medians['PyTorch']:.2f}")


if __name__ == "__main__":
    main()
