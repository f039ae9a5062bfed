"""Writes golden/resnet20_predictions.txt: torch's predictions with a published CIFAR-10 resnet20.

    python tests/weights/make_resnet20_predictions.py WEIGHTS CIFAR_ARCHIVE

The net is written out here with torch's functions, so that nothing of flax_resnet has a part in it.
"""

import sys
import tarfile

import numpy as np
import torch
import torch.nn.functional as F
from conftest import GOLDEN

COUNT = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resnet20(state, x):
    """Logits of images ``[N, 3, 32, 32]``; shortcuts of option A (He et al. 2015a, 4.2)."""

    def norm(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{key}"] for key in names))

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(norm(y, f"{name}.bn1"))
            y = norm(F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            x = x[:, :, ::stride, ::stride]
            side = (y.shape[1] - x.shape[1]) // 2
            x = F.relu(y + F.pad(x, (0, 0, 0, 0, side, side)))
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


def main(weights, archive):
    with tarfile.open(archive) as tar:
        records = tar.extractfile("cifar-10-batches-bin/test_batch.bin").read(COUNT * 3073)
    records = np.frombuffer(records, np.uint8).reshape(COUNT, 3073)
    images = torch.from_numpy(records[:, 1:].reshape(COUNT, 3, 32, 32).copy()) / 255
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    state = {name.removeprefix("module."): value for name, value in state.items()}
    with torch.no_grad():
        predicted = resnet20(state, images).argmax(1).numpy()
    print(f"torch {torch.__version__}: {(predicted == records[:, 0]).mean():.2%} of {COUNT}")
    (GOLDEN / "resnet20_predictions.txt").write_text("".join(map(str, predicted)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
