"""The residual blocks of ResNet, ResNeXt, wide and pre-activation ResNets, and their convolution.

Paddings are explicit, because "SAME" pads a strided convolution differently from torch. Papers: see
:mod:`resnet`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Dropout, conv_init
from .lowerings import Convolution, Epilogue, convolve, convolve_fused, pack

EXPANSION = {"basic": 1, "bottleneck": 4}  # output channels of a block / its planes


class ConvSpec(NamedTuple):
    """One convolution of a block."""

    features: int
    kernel: int
    stride: int = 1
    groups: int = 1


def block_layout(
    block: str, planes: int, stride: int, version: str, groups: int, width_per_group: int
) -> tuple[ConvSpec, ...]:
    """The convolutions of a block, first to last (He et al. 2015a, figure 5; Xie et al. 2017)."""
    if block == "basic":
        return ConvSpec(planes, 3, stride), ConvSpec(planes, 3)
    width = int(planes * (width_per_group / 64)) * groups
    first, second = (stride, 1) if version == "v1" else (1, stride)
    return (
        ConvSpec(width, 1, first),
        ConvSpec(width, 3, second, groups),
        ConvSpec(planes * EXPANSION[block], 1),
    )


class Conv(nn.Module):
    """A square convolution, padded by ``kernel // 2`` on every side; by default without bias.

    ``conv_impl``: how it is computed, see :func:`lowerings.convolve`. With a bias it may also add a
    residual and rectify, in one pass; the collection ``packed``, if there is one, holds the kernel
    in the layout that is fastest, see :func:`folding.pack_kernels`.
    """

    spec: ConvSpec
    use_bias: bool = False
    conv_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = conv_init

    @nn.compact
    def __call__(
        self, x: jax.Array, residual: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        features, size, _, groups = self.spec
        shape = (size, size, x.shape[-1] // groups, features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        conv = self.convolution(x, kernel)
        if not self.use_bias:
            return Epilogue(None, residual, relu).apply(convolve(conv, self.conv_impl))
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        epilogue = Epilogue(bias.astype(self.dtype), residual, relu)
        if self.is_mutable_collection("packed") and not self.is_initializing():
            packed = pack(conv, self.conv_impl)
            if packed is not None:
                self.put_variable("packed", "kernel", packed)
        packed = self.get_variable("packed", "kernel")
        return convolve_fused(conv, epilogue, packed, self.conv_impl)

    def convolution(self, x: jax.Array, kernel: jax.Array) -> Convolution:
        """What is to be computed of images ``[N, H, W, C]``."""
        _, size, stride, groups = self.spec
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return Convolution(x, kernel, stride, size // 2, groups)


class ResidualBlock(nn.Module):
    """A residual block: post-activation (v1, v1.5) or pre-activation (v2).

    Attributes:
      layout: its convolutions.
      conv, norm: constructors of the two layers, called with ``name``.
      shortcut, avg_pool_shortcut, residual, zero_init_residual: as in :class:`ResNet`.
      preactivate: normalise and rectify before each convolution instead of after.
      folded: batch norm is in the convolutions, see :mod:`folding`; for inference.
      drop_path: probability of skipping the residual branch of an example in training.
      dropout: dropout rate before the last convolution (Zagoruyko & Komodakis 2016, section 3.4).
      axis_name: see :class:`ResNet`.
    """

    layout: tuple[ConvSpec, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: str = "B"
    avg_pool_shortcut: bool = False
    residual: bool = True
    zero_init_residual: bool = False
    preactivate: bool = False
    folded: bool = False
    drop_path: float = 0.0
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.preactivate:
            return self._preactivated(x, train)
        return self._folded(x) if self.folded else self._postactivated(x, train)

    def _folded(self, x: jax.Array) -> jax.Array:
        """What :meth:`_postactivated` computes, for convolutions that add and rectify."""
        *first, last = (self.conv(s, name=f"conv{i}") for i, s in enumerate(self.layout, start=1))
        y = x
        for conv in first:
            y = conv(y, relu=True)
        return last(y, self._shortcut(x, False) if self.residual else None, relu=True)

    def _postactivated(self, x: jax.Array, train: bool) -> jax.Array:
        y, last = x, len(self.layout)
        for i, spec in enumerate(self.layout, start=1):
            if i == last:
                y = Dropout(self.dropout, axis_name=self.axis_name)(y, train)
            y = self.conv(spec, name=f"conv{i}")(y)
            zero = {"scale_init": nn.initializers.zeros} if i == last and self._zero else {}
            norm = self.norm(name=f"bn{i}", **zero)
            if i < last or not self.residual:
                y = norm(y, train, relu=True)
            elif self.drop_path == 0:
                y = norm(y, train, residual=self._shortcut(x, train), relu=True)
            else:
                dropped = self._drop_path(norm(y, train), train)
                y = nn.relu(self._shortcut(x, train) + dropped)
        return y

    def _preactivated(self, x: jax.Array, train: bool) -> jax.Array:
        y, last = x, len(self.layout)
        # Where the shape changes, the projection starts from the shared first activation; the
        # identity passes the raw input (He et al. 2016, the authors' code).
        shortcut = x
        for i, spec in enumerate(self.layout, start=1):
            y = self.norm(name=f"bn{i}")(y, train, relu=True)
            if i == 1 and self.residual:
                shortcut = self._shortcut(x if self._is_identity(x) else y, train)
            if i == last:
                y = Dropout(self.dropout, axis_name=self.axis_name)(y, train)
            zero = {"kernel_init": nn.initializers.zeros} if i == last and self._zero else {}
            y = self.conv(spec, name=f"conv{i}", **zero)(y)
        return shortcut + self._drop_path(y, train) if self.residual else y

    @property
    def _zero(self) -> bool:
        return self.zero_init_residual and self.residual

    @property
    def _stride(self) -> int:
        return max(spec.stride for spec in self.layout)

    def _is_identity(self, x: jax.Array) -> bool:
        same = self._stride == 1 and x.shape[-1] == self.layout[-1].features
        return same and self.shortcut != "C"

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if self._is_identity(x):
            return x
        stride, features = self._stride, self.layout[-1].features
        if self.shortcut == "A":
            missing = features - x.shape[-1]
            x = x[:, ::stride, ::stride]
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        if self.avg_pool_shortcut and stride > 1:
            # Odd sizes: the last window is cut short and averages what there is.
            edges = tuple((0, size % stride) for size in x.shape[1:3])
            window = (stride, stride)
            x = nn.avg_pool(x, window, window, edges, count_include_pad=False)
            stride = 1
        x = self.conv(ConvSpec(features, 1, stride), name="downsample_conv")(x)
        return x if self.preactivate else self.norm(name="downsample_bn")(x, train)

    def _drop_path(self, y: jax.Array, train: bool) -> jax.Array:
        return Dropout(self.drop_path, whole_sample=True, axis_name=self.axis_name)(y, train)
