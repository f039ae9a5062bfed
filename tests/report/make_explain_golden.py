"""Writes golden/explain.npz: heat maps of captum and pytorch-grad-cam on a small torchvision net.

    python tests/report/make_explain_golden.py

It needs torchvision, captum and grad-cam; the state dict and the images are drawn from seeds. The
computation is in float64, because single precision flips ReLUs along integrated gradients.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.weights.conftest import seeded_state_dict
from tests.weights.torchvision_import import torchvision  # before grad-cam, which imports it too

from captum.attr import IntegratedGradients, Occlusion  # isort: skip
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus  # isort: skip
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # isort: skip

TARGETS, STEPS, WINDOW, STRIDE = np.array([3, 7]), 6, 20, 13


def seeded_batch():
    """Two images ``[2, 48, 56, 3]``, each with a brighter or darker box of its own."""
    images = np.random.RandomState(27).standard_normal((2, 48, 56, 3)) / 2
    images[0, 8:32, 8:32] += 1
    images[1, 20:44, 20:50] -= 1
    return images


def theirs(net, images, targets, layers):
    """Maps by method and layer, ``[N, H, W]``; those of Grad-CAM are scaled to [0, 1]."""
    net, batch = net.double().eval(), torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    chosen, labels = [ClassifierOutputTarget(int(i)) for i in targets], torch.from_numpy(targets)
    maps = {}
    for layer in layers:
        blocks = [getattr(net, layer)[-1]]
        for method, kind in (("grad-cam", GradCAM), ("grad-cam++", GradCAMPlusPlus)):
            maps[f"{method}/{layer}"] = kind(net, blocks)(input_tensor=batch, targets=chosen)
    attributions = IntegratedGradients(net).attribute(batch, target=labels, n_steps=STEPS)
    maps["integrated-gradients"] = attributions.sum(1).detach().numpy()
    falls = Occlusion(net).attribute(
        batch,
        target=labels,
        sliding_window_shapes=(3, WINDOW, WINDOW),
        strides=(3, STRIDE, STRIDE),
    )
    maps["occlusion"] = falls[:, 0].detach().numpy()
    return maps


def small_net():
    """torchvision's ResNet of one basic block in each stage, with 10 classes."""
    net = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1] * 4, num_classes=10)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    arrays = seeded_state_dict(shapes)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return net


def main():
    maps = theirs(small_net(), seeded_batch(), TARGETS, ("layer3", "layer4"))
    # Every fifth pixel in each direction.
    kept = {name: array[:, 2::5, 2::5].astype(np.float32) for name, array in maps.items()}
    np.savez_compressed(Path(__file__).parent / "golden" / "explain.npz", **kept)


if __name__ == "__main__":
    main()
