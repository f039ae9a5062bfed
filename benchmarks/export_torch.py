"""Files of torch's two ONNX exporters, and their nodes, for ``benchmarks.export``.

    python -m benchmarks.export_torch --models "resnet*" --output nodes.json --folder scratch

It needs torch, torchvision, timm and onnxscript. Architectures that neither torchvision nor timm
has, those for CIFAR, are built from their blocks. Files stay only where a folder is named.
"""

import argparse
import fnmatch
import importlib
import json
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import torch
from torch import nn

from benchmarks.cpu.torch_models import _PaddedShortcut
from tests.weights.torchvision_import import torchvision

timm = importlib.import_module("timm")  # it imports torchvision, which then loads
layers, resnetv2 = timm.layers, importlib.import_module("timm.models.resnetv2")
BasicBlock = torchvision.models.resnet.BasicBlock
Bottleneck = torchvision.models.resnet.Bottleneck

TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
TIMM = ("resnet50d", "seresnet50", "resnetv2_50")
EXPORTERS = ("torchscript", "dynamo")


def _cifar(blocks, block, planes, shortcut, stem_width=16, **options):
    """Three stages behind one 3x3 convolution (He et al. 2015a, section 4.2)."""
    inputs, stages = stem_width, []
    for stage, features in enumerate(planes):
        for number in range(blocks):
            stride, outputs = 2 if stage and not number else 1, features * block.expansion
            downsample = None
            if stride != 1 or inputs != outputs:
                downsample = shortcut(inputs, outputs, stride)
            stages.append(block(inputs, features, stride, downsample, **options))
            inputs = outputs
    conv = nn.Conv2d(3, stem_width, 3, padding=1, bias=False)
    stem = (conv, nn.BatchNorm2d(stem_width), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))
    return nn.Sequential(*stem, *stages, *head)


def _projection(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _basic(depth):
    def shortcut(inputs, outputs, stride):
        return _PaddedShortcut()

    return _cifar((depth - 2) // 6, BasicBlock, (16, 32, 64), shortcut)


def _resnext29():
    return _cifar(3, Bottleneck, (64, 128, 256), _projection, 64, groups=8, base_width=64)


def _preactivation(depth):
    model = resnetv2.ResNetV2(
        [(depth - 2) // 9] * 3,
        (64, 128, 256),
        num_classes=10,
        stem_chs=16,
        norm_layer=layers.BatchNormAct2d,
        conv_layer=layers.create_conv2d,
    )
    model.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return model


CIFAR = {
    "resnet20": lambda: _basic(20),
    "resnet56": lambda: _basic(56),
    "resnet110": lambda: _basic(110),
    "resnext29_8x64d": _resnext29,
    "resnet164_v2": lambda: _preactivation(164),
}


def create(name):
    """Create a model of torch by our name of the architecture."""
    if name in CIFAR:
        return CIFAR[name]()
    if name in TIMM:
        return timm.create_model(name)
    return torchvision.models.get_model(name)


def randomize(model):
    """Make batch norms not trivial, so that no exporter finds constants in them."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | layers.BatchNormAct2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor)


def export(model, path, exporter, size, free=True):
    """Write a file by one of torch's exporters; ``free`` leaves batch and image size free."""
    x = torch.zeros(2 if free else 1, 3, size, size)
    axes = {0: "batch", 2: "height", 3: "width"}
    common = {"input_names": ["images"], "output_names": ["logits"], "opset_version": 18}
    if exporter == "torchscript":
        common |= {"dynamo": False, "dynamic_axes": {"images": axes} if free else None}
    else:
        dynamic = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
        common |= {"dynamo": True, "external_data": False}
        common["dynamic_shapes"] = (dynamic,) if free else None
    torch.onnx.export(model, (x,), str(path), **common)


def nodes_of(path):
    """Return the number of nodes of each operator."""
    graph = onnx.load(path, load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["*"])
    parser.add_argument("--output", type=Path, help="a file of JSON to add the nodes to")
    parser.add_argument("--folder", type=Path, help="a folder for the files")
    options = parser.parse_args()
    output = options.output
    found = json.loads(output.read_text()) if output is not None and output.exists() else {}
    for name in (*CIFAR, *TIMM, *TORCHVISION):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in options.models):
            continue
        model = create(name).eval()
        randomize(model)
        for exporter in EXPORTERS:
            with tempfile.TemporaryDirectory() as scratch:
                folder = options.folder or Path(scratch)
                path = folder / f"{name}-{exporter}.onnx"
                try:
                    export(model, path, exporter, 32 if name in CIFAR else 224)
                except Exception as error:
                    print(f"{name} {exporter}: {str(error).splitlines()[0]}", flush=True)
                    path = folder / f"{name}-{exporter}-one-size.onnx"
                    export(model, path, exporter, 32 if name in CIFAR else 224, free=False)
                counts = nodes_of(path)
            found.setdefault(name, {})[exporter] = counts
            identities = counts.get("Identity", 0)
            print(
                f"{name:20} {exporter:12} {sum(counts.values()) - identities:5} nodes and "
                f"{identities} Identity: {counts}",
                flush=True,
            )
        if output is not None:
            output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
