"""PyTorch's models: torchvision's, with a 3x3 stem for CIFAR, and the resnet20 of He et al."""

import io

import torch
from PIL import Image
from torch import nn

from benchmarks.cpu.photo import photo
from tests.weights.torchvision_import import torchvision


class _PaddedShortcut(nn.Module):
    """The parameter-free shortcut: every other pixel, padded with zero channels (option A)."""

    def forward(self, x):
        missing = x.shape[1] // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing, missing))


def _resnet20(classes):
    block = torchvision.models.resnet.BasicBlock

    def stage(inputs, planes, stride):
        first = block(inputs, planes, stride, _PaddedShortcut() if stride > 1 else None)
        return nn.Sequential(first, block(planes, planes), block(planes, planes))

    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True))
    stages = (stage(16, 16, 1), stage(16, 32, 2), stage(32, 64, 2))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return nn.Sequential(*stem, *stages, *head)


def create(name, stem, classes):
    """Creates a model by its name."""
    if name == "resnet20":
        return _resnet20(classes)
    model = getattr(torchvision.models, name)(num_classes=classes)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


def _classifier(infer):
    """Returns a function that classifies a photo, by torchvision's own transform of ImageNet."""
    transform = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    encoded = photo()

    def classify():
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        with torch.inference_mode():
            images = transform(image)[None]
        return infer(images).softmax(1)

    return classify


def build(workload, layout, compile="no"):
    """Returns a function that runs one training step or computes one batch of logits.

    Args:
        workload: A ``Workload``.
        layout: The memory layout, ``"nchw"`` or ``"nhwc"``.
        compile: ``"yes"`` for ``torch.compile``.
    """
    torch.manual_seed(0)
    model = create(workload.model, workload.stem, workload.classes)
    images = torch.randn(workload.batch, 3, workload.size, workload.size)
    labels = torch.randint(0, workload.classes, (workload.batch,))
    if layout == "nhwc":
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=workload.dtype == "bfloat16")
    model.train(workload.train)
    if compile == "yes":
        if not workload.train:
            from torch._inductor import config

            config.freezing = True  # Folds batch norm and reorders weights.
        forward = torch.compile(model)
    else:
        forward = model
    if not workload.train:
        # Inductor freezes weights only under no_grad. Eager mode is faster under inference_mode.
        mode = torch.no_grad if compile == "yes" else torch.inference_mode

        def infer(images=images):
            with mode(), autocast:
                return forward(images)

        return _classifier(infer) if workload.photo else infer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
