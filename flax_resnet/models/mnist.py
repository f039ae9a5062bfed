"""A small residual net for 28x28 grey digits, as widely taught with MNIST."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .blocks import Conv, ConvSpec, ResidualBlock, block_layout
from .layers import BatchNorm, Dropout, FoldedNorm, dense_init
from .lowerings import max_pool


class MnistResNet(nn.Module):
    """Two stages of convolution (5x5, then 3x3), 2x2 max-pool and one basic residual block; the
    classifier sees every place of the last map, so the image size is fixed at initialisation.

    The tutorial net's block lacks the ReLU between its two convolutions; here it is He et al.'s
    block, with batch norm. Calls and methods as :class:`resnet.ResNet`.
    """

    widths: tuple[int, int] = (16, 32)
    num_classes: int = 10
    dropout: float = 0.0
    axis_name: str | None = None
    batch_norm_groups: int = 1
    frozen_statistics: bool = False
    frozen_affine: bool = False
    norm: str = "batch"
    conv_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "folded"):
            raise ValueError(f"norm={self.norm!r} is not one of ('batch', 'folded')")
        super().__post_init__()

    def setup(self) -> None:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=self.norm == "folded", conv_impl=self.conv_impl, **types)
        norm: Callable[..., nn.Module] = partial(FoldedNorm, affine=False, **types)
        if self.norm == "batch":
            norm = partial(
                BatchNorm,
                axis_name=self.axis_name,
                groups=self.batch_norm_groups,
                frozen_statistics=self.frozen_statistics,
                frozen_affine=self.frozen_affine,
                conv_impl=self.conv_impl,
                **types,
            )

        def stage(planes: int) -> list[ResidualBlock]:
            return [ResidualBlock(block_layout("basic", planes, 1, "v1.5", 1, 64), conv, norm)]

        first, second = self.widths
        self.conv1, self.bn1, self.layer1 = conv(spec=ConvSpec(first, 5)), norm(), stage(first)
        self.conv2, self.bn2, self.layer2 = conv(spec=ConvSpec(second, 3)), norm(), stage(second)
        self.head_dropout = Dropout(self.dropout, axis_name=self.axis_name)
        self.fc = nn.Dense(self.num_classes, kernel_init=dense_init, **types)

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """``"stem"``, ``"layer1"``, ``"layer2"`` ``[N, H, W, C]`` and the classifier's input
        ``"pooled"`` ``[N, H * W * C]``."""

        def pool(y: jax.Array) -> jax.Array:
            return max_pool(nn.relu(y), 2, 2, conv_impl=self.conv_impl)

        stem = pool(self.bn1(self.conv1(x), train))
        layer1 = self.layer1[0](stem, train)
        layer2 = self.layer2[0](pool(self.bn2(self.conv2(layer1), train)), train)
        pooled = layer2.reshape(layer2.shape[0], -1)
        return {"stem": stem, "layer1": layer1, "layer2": layer2, "pooled": pooled}

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[N, H, W, C]`` to logits ``[N, num_classes]``."""
        logits = self.fc(self.head_dropout(self.features(x, train)["pooled"], train))
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
