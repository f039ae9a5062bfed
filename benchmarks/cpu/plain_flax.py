"""A ResNet in plain Flax: Linen's own Conv, BatchNorm and max_pool.

The structure and options are those of Flax's ImageNet example. Padding and strides are
torchvision's, so that all contenders do the same arithmetic.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Block(nn.Module):
    """A basic or bottleneck block."""

    planes: int
    stride: int
    kind: str
    groups: int
    width: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x):
        y, strides = x, (self.stride, self.stride)
        if self.kind == "basic":
            features = self.planes
            y = nn.relu(self.norm()(self.conv(features, (3, 3), strides, padding=1)(y)))
            y = self.norm()(self.conv(features, (3, 3), padding=1)(y))
        else:
            features, width = self.planes * 4, self.planes * self.width // 64 * self.groups
            middle = partial(self.conv, feature_group_count=self.groups)
            y = nn.relu(self.norm()(self.conv(width, (1, 1))(y)))
            y = nn.relu(self.norm()(middle(width, (3, 3), strides, padding=1)(y)))
            y = self.norm()(self.conv(features, (1, 1))(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(features, (1, 1), strides)(x))
        return nn.relu(x + y)


class PlainResNet(nn.Module):
    """A ResNet, ResNeXt or Wide ResNet."""

    stages: tuple[int, ...]
    kind: str
    widths: tuple[int, ...] = (64, 128, 256, 512)
    classes: int = 1000
    stem: str = "imagenet"
    groups: int = 1
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        if self.stem == "imagenet":
            x = nn.relu(norm()(conv(self.widths[0], (7, 7), (2, 2), padding=3)(x)))
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        else:
            x = nn.relu(norm()(conv(self.widths[0], (3, 3), padding=1)(x)))
        for stage, (blocks, planes) in enumerate(zip(self.stages, self.widths, strict=True)):
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                x = Block(planes, stride, self.kind, self.groups, self.width, conv, norm)(x)
        x = nn.Dense(self.classes, dtype=self.dtype)(jnp.mean(x, (1, 2)))
        return x.astype(jnp.float32)


MODELS = {
    "resnet18": {"stages": (2, 2, 2, 2), "kind": "basic"},
    "resnet50": {"stages": (3, 4, 6, 3), "kind": "bottleneck"},
    "resnet101": {"stages": (3, 4, 23, 3), "kind": "bottleneck"},
    "resnet152": {"stages": (3, 8, 36, 3), "kind": "bottleneck"},
    "resnext50_32x4d": {"stages": (3, 4, 6, 3), "kind": "bottleneck", "groups": 32, "width": 4},
    "wide_resnet50_2": {"stages": (3, 4, 6, 3), "kind": "bottleneck", "width": 128},
    "resnet20": {"stages": (3, 3, 3), "kind": "basic", "widths": (16, 32, 64)},
}
