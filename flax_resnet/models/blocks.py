"""The residual blocks of ResNet, ResNeXt, wide and pre-activation ResNets.

The papers are listed in ``resnet.py``.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .antialiasing import ANTI_ALIASING
from .layers import Conv, ConvSpec, Dropout, Fusible, conv_norm, normalized, relu, value

EXPANSION = {"basic": 1, "bottleneck": 4}  # output channels of a block / its planes


def conv_specs(
    block: str,
    planes: int,
    stride: int,
    version: str,
    groups: int,
    width_per_group: int,
    dilations: tuple[int, int] = (1, 1),
) -> tuple[ConvSpec, ...]:
    """The convolutions of a block, first to last (He et al. 2015a, figure 5; Xie et al. 2017).

    Args:
        block, version, groups, width_per_group: As in ``ResNet``.
        planes: Planes of the stage.
        stride: Stride of the block.
        dilations: Dilation of the block's first 3x3 convolution, and of its second.
    """
    if block == "basic":
        first, second = dilations
        return ConvSpec(planes, 3, stride, 1, first), ConvSpec(planes, 3, 1, 1, second)
    width = int(planes * (width_per_group / 64)) * groups
    first, second = (stride, 1) if version == "v1" else (1, stride)
    return (
        ConvSpec(width, 1, first),
        ConvSpec(width, 3, second, groups, dilations[0]),
        ConvSpec(planes * EXPANSION[block], 1),
    )


class ResidualBlock(nn.Module):
    """Options and shortcut of the post-activation and the pre-activation block.

    Attributes:
        conv_specs: Its convolutions.
        conv: Constructor of a convolution, called with a ``ConvSpec`` and ``name``.
        norm: Constructor of a norm, called with ``name``; it returns None where batch norm is
            folded into the convolutions.
        attention: Constructor of a channel attention, called with ``name``, or None.
        anti_alias: As in ``ResNet``.
        shortcut: As in ``ResNet``.
        avg_pool_shortcut: As in ``ResNet``.
        residual: As in ``ResNet``.
        zero_init_residual: As in ``ResNet``.
        dilation: Dilation of the stage.
        drop_path: Probability that training skips the residual branch of an example.
        dropout: Dropout rate before the last convolution (Zagoruyko & Komodakis 2016, section 3.4).
        axis_name: As in ``ResNet``.
    """

    conv_specs: tuple[ConvSpec, ...]
    conv: Callable[..., Conv]
    norm: Callable[..., Any]
    attention: Callable[..., nn.Module] | None = None
    anti_alias: str | None = None
    shortcut: str = "B"
    avg_pool_shortcut: bool = False
    residual: bool = True
    zero_init_residual: bool = False
    dilation: int = 1
    drop_path: float = 0.0
    dropout: float = 0.0
    axis_name: str | None = None

    @property
    def _stride(self) -> int:
        return max(spec.stride for spec in self.conv_specs)

    @property
    def _starts_at_zero(self) -> bool:
        return self.zero_init_residual and self.residual

    def _is_identity(self, x: jax.Array) -> bool:
        same = self._stride == 1 and x.shape[-1] == self.conv_specs[-1].features
        return same and self.shortcut != "C"

    def _shortcut(self, x: jax.Array, train: bool, with_norm: bool) -> jax.Array:
        """``x`` in the shape of the branch's output; ``with_norm`` normalises a projection."""
        if self._is_identity(x):
            return x
        stride, features = self._stride, self.conv_specs[-1].features
        if self.shortcut == "A":
            missing = features - x.shape[-1]
            x = x[:, ::stride, ::stride]
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        if self.avg_pool_shortcut and stride > 1:
            # At odd sizes the last window is smaller and averages the pixels that it holds.
            edges = tuple((0, -size % stride) for size in x.shape[1:3])
            window = (stride, stride)
            x = nn.avg_pool(x, window, window, edges, count_include_pad=False)
            stride = 1
        elif self.avg_pool_shortcut and self.dilation > 1:
            # In a dilated stage timm pools without a stride, over a zero beyond the last pixels.
            x = nn.avg_pool(x, (2, 2), (1, 1), ((0, 1), (0, 1)))
        conv = self.conv(ConvSpec(features, 1, stride), name="downsample_conv")
        if not with_norm:
            return conv(x)
        return conv_norm(conv, self.norm(name="downsample_bn"), x, train).value()

    def _dropout(self, y: jax.Array, train: bool) -> jax.Array:
        return Dropout(self.dropout, axis_name=self.axis_name)(y, train)

    def _drop_path(self, y: jax.Array, train: bool) -> jax.Array:
        return Dropout(self.drop_path, whole_sample=True, axis_name=self.axis_name)(y, train)


class PostActivationBlock(ResidualBlock):
    """The block of He et al. 2015a: convolution, norm, ReLU; the last ReLU follows the sum."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        *first, last = self.conv_specs
        h = x
        for i, spec in enumerate(first, start=1):
            h = self._downsampled_relu(spec, i, h, train)
        h = self._dropout(h, train)
        y: jax.Array | Fusible = self._conv_norm(last, len(self.conv_specs), h, train)
        if self.attention is not None:
            y = self.attention(name="se")(value(y))
        if not self.residual:
            return relu(y)
        if train and self.drop_path > 0:
            y = self._drop_path(value(y), train)
        shortcut = self._shortcut(x, train, with_norm=True)
        return relu(y + shortcut)

    def _downsampled_relu(self, spec: ConvSpec, i: int, x: jax.Array, train: bool) -> jax.Array:
        """Convolution, norm and ReLU; with anti-aliasing, a filter after them takes the stride."""
        if self.anti_alias is None or spec.stride == 1:
            return relu(self._conv_norm(spec, i, x, train))
        h = relu(self._conv_norm(spec._replace(stride=1), i, x, train))
        return ANTI_ALIASING[self.anti_alias](h)

    def _conv_norm(self, spec: ConvSpec, i: int, x: jax.Array, train: bool) -> Fusible:
        zero = self._starts_at_zero and i == len(self.conv_specs)
        scale_init = nn.initializers.zeros if zero else nn.initializers.ones
        conv = self.conv(spec, name=f"conv{i}")
        return conv_norm(conv, self.norm(name=f"bn{i}", scale_init=scale_init), x, train)


class PreActivationBlock(ResidualBlock):
    """The block of He et al. 2016 (v2): norm and ReLU precede each convolution."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y, shortcut, last = x, x, len(self.conv_specs)
        for i, spec in enumerate(self.conv_specs, start=1):
            y = relu(normalized(self.norm(name=f"bn{i}"), y, train))
            if i == 1 and self.residual:
                # A projection starts from the shared first activation, and the identity passes the
                # raw input (He et al. 2016, the authors' code).
                source = x if self._is_identity(x) else y
                shortcut = self._shortcut(source, train, with_norm=False)
            if i == last:
                y = self._dropout(y, train)
            zero = self._starts_at_zero and i == last
            init = {"kernel_init": nn.initializers.zeros} if zero else {}
            y = self.conv(spec, name=f"conv{i}", **init)(y)
        return shortcut + self._drop_path(y, train) if self.residual else y
