"""Made tests/weights/files/checkpoints with torch 2.13.0, torchvision 0.28.0 and transformers 5.

    python -m tests.weights.make_checkpoints

They are a small ResNet as real programs save it, and its logits on ``image()``: the writers are
torch.save, torch.jit, pickle and safetensors, the modules are torchvision's, transformers' or named
as those of the project in the file's name.
"""

import argparse
import datetime
import pickle
import sys
from pathlib import Path

import numpy as np

FILES = Path(__file__).parent / "files" / "checkpoints"
WIDTHS = (2, 2, 4, 4)
CLASSES = 5


def image():
    """An image ``[1, 32, 32, 3]``."""
    return np.random.RandomState(3).standard_normal((1, 32, 32, 3)).astype(np.float32)


def make_files():
    import torch
    from torch import nn

    from tests.weights.torchvision_import import torchvision

    resnet = torchvision.models.resnet
    generator = torch.Generator().manual_seed(5)

    class SmallResNet(resnet.ResNet):
        """torchvision's ResNet with one narrow block a stage."""

        def __init__(self, head=None):
            nn.Module.__init__(self)
            self._norm_layer, self.dilation, self.groups, self.base_width = nn.BatchNorm2d, 1, 1, 64
            self.inplanes = WIDTHS[0]
            self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
            self.bn1, self.relu = nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
            for number, width in enumerate(WIDTHS):
                layer = self._make_layer(resnet.BasicBlock, width, 1, stride=1 + (number > 0))
                setattr(self, f"layer{number + 1}", layer)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = head or nn.Linear(WIDTHS[-1], CLASSES)

    class CifarBlock(nn.Module):
        """A basic block with the names of kuangliu/pytorch-cifar."""

        def __init__(self, inputs, planes, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            projects = stride > 1 or inputs != planes
            self.shortcut = nn.Sequential()
            if projects:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
                )

        def forward(self, x):
            out = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))

    class Cifar100Block(nn.Module):
        """A basic block with the names of weiaicunzai/pytorch-cifar100."""

        def __init__(self, inputs, planes, stride):
            super().__init__()
            self.residual_function = nn.Sequential(
                nn.Conv2d(inputs, planes, 3, stride, 1, bias=False),
                nn.BatchNorm2d(planes),
                nn.ReLU(),
                nn.Conv2d(planes, planes, 3, 1, 1, bias=False),
                nn.BatchNorm2d(planes),
            )
            self.shortcut = CifarBlock(inputs, planes, stride).shortcut

        def forward(self, x):
            return torch.relu(self.residual_function(x) + self.shortcut(x))

    class CifarResNet(nn.Module):
        """The network around either block, which does not pool."""

        def __init__(self, block):
            super().__init__()
            stem = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0])
            self.sequential = block is Cifar100Block
            if self.sequential:
                self.conv1 = nn.Sequential(*stem, nn.ReLU())
            else:
                self.conv1, self.bn1 = stem
            self.names = []
            inputs = WIDTHS[0]
            for number, width in enumerate(WIDTHS):
                name = f"conv{number + 2}_x" if self.sequential else f"layer{number + 1}"
                self.names.append(name)
                setattr(self, name, nn.Sequential(block(inputs, width, 1 + (number > 0))))
                inputs = width
            name = "fc" if self.sequential else "linear"
            setattr(self, name, nn.Linear(inputs, CLASSES))

        def forward(self, x):
            x = self.conv1(x) if self.sequential else torch.relu(self.bn1(self.conv1(x)))
            for name in self.names:
                x = getattr(self, name)(x)
            return (self.fc if self.sequential else self.linear)(x.mean((2, 3)))

    # Where a whole model's classes say that they are; they need not exist to be read.
    for kind in (SmallResNet, CifarBlock):
        kind.__module__, kind.__qualname__ = "__main__", kind.__name__
        setattr(__import__("__main__"), kind.__name__, kind)

    def seeded(model):
        """Fill a model with values that leave no layer trivial."""
        for name, tensor in model.state_dict().items():
            if tensor.dtype == torch.float32:
                value = torch.rand(tensor.shape, generator=generator)
                kernel = tensor.ndim > 1
                scale = (6 / tensor[0].numel()) ** 0.5 if kernel else 1.0
                value = (2 * value - 1) * scale if kernel else value * 0.5 + 0.5
                tensor.copy_(value - 0.7 if name.endswith(("bias", "mean")) else value)
        return model.eval()

    logits = {}
    pixels = torch.from_numpy(image().transpose(0, 3, 1, 2).copy())

    def save(name, content, model, write=torch.save, **options):
        write(content, FILES / name, **options)
        with torch.no_grad():
            output = model(pixels)
        logits[name] = getattr(output, "logits", output).numpy()

    model, average = seeded(SmallResNet()), seeded(SmallResNet())
    state, ema = model.state_dict(), average.state_dict()

    def prefixed(prefix, state=state):
        return {prefix + name: tensor for name, tensor in state.items()}

    def without_head(state):
        return {name: tensor for name, tensor in state.items() if not name.startswith("fc")}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).state_dict()
    arguments = argparse.Namespace(
        model="resnet18", lr=0.1, output_dir=Path("/runs"), started=datetime.datetime(2026, 1, 2)
    )
    save("state_dict.pth", state, model)
    save(
        "torchvision_references.pth",  # references/classification/train.py
        {
            "model": state,
            "optimizer": optimizer,
            "lr_scheduler": {"last_epoch": 3, "_last_lr": [0.1]},
            "epoch": 3,
            "args": arguments,
            "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", ema)},
        },
        model,
    )
    save(
        "timm_train.pth.tar",
        {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": state,
            "optimizer": optimizer,
            "version": 2,
            "args": arguments,
            "metric": np.float64(76.1),
            "state_dict_ema": ema,
        },
        model,
    )
    save(
        "lightning.ckpt",
        {
            "epoch": 3,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": prefixed("model.") | {"loss.weight": torch.ones(CLASSES)},
            "callbacks": {argparse.Namespace: {"best": np.float32(0.5), "path": Path("a.ckpt")}},
            "hyper_parameters": {"mean": np.zeros(3), "day": datetime.date(2026, 1, 2)},
        },
        model,
    )
    save(
        "imagenet_example.pth.tar",
        {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": prefixed("module."),
            "best_acc1": torch.tensor(71.5),
            "optimizer": optimizer,
            "scheduler": {"last_epoch": 3},
        },
        model,
    )
    save("whole_model.model", model, model)
    save(
        "whole_parallel",
        {"net": nn.DataParallel(model), "acc": 93.1},
        model,
        _use_new_zipfile_serialization=False,
    )
    # The old format holds where the classes' sources lie: another folder, of the same length.
    parallel = FILES / "whole_parallel"
    prefix = sys.prefix.encode()
    parallel.write_bytes(parallel.read_bytes().replace(prefix, b"/opt".ljust(len(prefix), b"_")))
    save("scripted.pt", torch.jit.script(model), model, write=torch.jit.save)
    save("frozen.pt", torch.jit.freeze(torch.jit.script(model)), model, write=torch.jit.save)

    def dump(content, path):
        with path.open("wb") as file:
            pickle.dump(content, file)

    save("numpy.pkl", {"weights": {n: t.numpy() for n, t in state.items()}}, model, write=dump)
    save("tensors.pkl", state, model, write=dump)

    heads = {
        "head_dropout.pth": nn.Sequential(nn.Dropout(), nn.Linear(WIDTHS[-1], CLASSES)),
        "head_two_layers.pth": nn.Sequential(
            nn.Linear(WIDTHS[-1], 3), nn.ReLU(), nn.Linear(3, CLASSES)
        ),
    }
    for name, head in heads.items():
        other = seeded(SmallResNet(head))
        save(name, other.state_dict(), other)
    fc = {name: tensor for name, tensor in state.items() if name.startswith("fc.")}
    backbone = prefixed("backbone.", without_head(state))
    for name, outer in (("mmpretrain.pth", "head.fc."), ("classifier.pth", "classifier.")):
        head = {name.replace("fc.", outer): tensor for name, tensor in fc.items()}
        save(name, {"state_dict": backbone | head, "meta": {"epoch": 3}}, model)
    save(
        "swav.pth",
        prefixed("module.", without_head(state))
        | {
            "module.projection_head.0.weight": torch.ones(4, WIDTHS[-1]),
            "module.prototypes.weight": torch.ones(3, 4),
        },
        model,
    )
    save(
        "moco.pth.tar",
        {
            "arch": "resnet18",
            "state_dict": prefixed("module.encoder_q.")
            | prefixed("module.encoder_k.", ema)
            | {"module.queue": torch.ones(5, 7), "module.queue_ptr": torch.zeros(1, dtype=int)},
        },
        model,
    )
    parts = [*model.children()]
    features = nn.Sequential(*parts[:-1], nn.Flatten())
    save("children.pth", nn.Sequential(features, parts[-1]).state_dict(), model)

    for name, block in (("kuangliu.pth", CifarBlock), ("weiaicunzai.pth", Cifar100Block)):
        other = seeded(CifarResNet(block))
        save(name, {"net": other.state_dict(), "acc": 93.1, "epoch": 3}, other)
    pooled = SmallResNet()
    pooled.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
    seeded(pooled)
    save("stem_3x3.pth", pooled.state_dict(), pooled)
    save("stem_3x3_whole.pth", pooled, pooled)
    unpooled = SmallResNet()
    unpooled.load_state_dict(state)
    unpooled.conv1, unpooled.maxpool = pooled.conv1, nn.Identity()
    save("stem_3x3_unpooled_whole.pth", unpooled.eval(), unpooled)

    from transformers import ResNetConfig, ResNetForImageClassification

    theirs = seeded(
        ResNetForImageClassification(
            ResNetConfig(
                embedding_size=WIDTHS[0],
                hidden_sizes=list(WIDTHS),
                depths=[1, 1, 1, 1],
                layer_type="basic",
                num_labels=CLASSES,
            )
        )
    )
    save("transformers.bin", theirs.state_dict(), theirs)
    np.savez(FILES / "logits.npz", **logits)


if __name__ == "__main__":
    make_files()
