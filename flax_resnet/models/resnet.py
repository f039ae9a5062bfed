"""ResNet, ResNeXt, wide and pre-activation ResNets: the net over its blocks.

Parameters carry torchvision's names (``conv1``, ``bn1``, ``layer3_5/conv2``,
``layer2_0/downsample_conv``, ``fc``). Images are ``[N, H, W, C]``.

Papers: He et al. 2015a "Deep Residual Learning" (v1, options A/B/C, CIFAR and plain nets); He et
al. 2016 "Identity Mappings" (v2); Xie et al. 2017 "Aggregated Residual Transformations" (groups);
Zagoruyko & Komodakis 2016 "Wide Residual Networks"; He et al. 2019 "Bag of Tricks" (ResNet-D).
"""

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .blocks import EXPANSION, Conv, ConvSpec, ResidualBlock, block_layout
from .layers import BatchNorm, Dropout, FoldedNorm, GroupNorm, dense_bias_init, dense_init
from .lowerings import CONV_IMPLS, max_pool

CHOICES = {
    "block": tuple(EXPANSION),
    "stem": ("imagenet", "cifar", "deep"),
    "shortcut": ("A", "B", "C"),
    "version": ("v1", "v1.5", "v2"),
    "norm": ("batch", "group", "folded"),
    "conv_impl": CONV_IMPLS,
}


class ResNet(nn.Module):
    """A residual network; the named variants are rows of ``variants.VARIANTS``.

    ``model.init(key, x, train=False)`` takes images ``[N, H, W, C]`` of any ``C`` and gives
    ``{"params", "batch_stats"}``; ``model.apply`` gives logits ``[N, num_classes]`` in float32 (or
    wider). In training pass ``mutable=["batch_stats"]``, and ``rngs={"dropout": key}`` where
    ``dropout``, ``block_dropout`` or ``stochastic_depth`` is used.

    Attributes:
      stage_sizes: number of blocks in each stage.
      block: ``"basic"`` (two 3x3) or ``"bottleneck"`` (1x1, 3x3, 1x1; output 4x the planes).
      widths: planes of each stage.
      num_classes: size of the classifier.
      groups, width_per_group: grouped 3x3 convolutions of the bottleneck, as in torchvision: its
        width is ``planes * width_per_group / 64 * groups`` (Xie et al. 2017).
      stem: ``"imagenet"`` (7x7 stride 2, 3x3 max-pool stride 2), ``"cifar"`` (3x3) or ``"deep"``
        (three 3x3, max-pool; He et al. 2019, ResNet-C).
      stem_width: channels of the stem; by default the first stage's planes.
      shortcut: where the shape changes, ``"A"`` pads the identity with zero channels, ``"B"``
        projects; ``"C"`` projects everywhere (He et al. 2015a, section 4.1).
      avg_pool_shortcut: 2x2 average pool, then a 1x1 projection of stride 1 (ResNet-D).
      residual: False leaves out the shortcuts: the plain nets of He et al. 2015a.
      version: ``"v1"`` strides on the first 1x1 of a bottleneck, ``"v1.5"`` on its 3x3 (as
        torchvision), ``"v2"`` is pre-activation (He et al. 2016).
      zero_init_residual: the last scale of each branch (v2: the last kernel) starts at zero, so
        that a block starts as the identity (Goyal et al. 2017, section 5.1).
      stochastic_depth: probability of skipping the last block's branch; earlier blocks' grow
        linearly towards it (Huang et al. 2016).
      hidden: widths of layers of the head between the pooled features and the classifier, each
        with a ReLU.
      dropout: dropout rate before the classifier.
      block_dropout: dropout rate inside each block (wide ResNets).
      norm: ``"batch"``, ``"group"`` (Wu & He 2018), or ``"folded"``: inference only, made by
        :func:`folding.fold_batch_norm`.
      momentum, epsilon: of batch norm, see :class:`layers.BatchNorm`.
      frozen_statistics, frozen_affine: freeze batch norm's running statistics, or its scale and
        bias, whatever ``train`` says.
      freeze_before: the first of :attr:`stages` that trains: those before it run as in evaluation,
        whatever ``train`` says (their batch norms keep their statistics).
      start_stage: the part that the net starts at: its input takes the place of the images.
      axis_name: mapped axis (``shard_map``, ``pmap``) over which batch-norm statistics are shared
        and examples are counted; ``train_step`` sets it.
      conv_impl: how convolutions are computed on CPU: ``"auto"`` chooses, ``"jax"`` without oneDNN,
        ``"onednn"`` demands it, ``"reference"`` leaves all to XLA; see :mod:`lowerings`.
      batch_norm_groups: parts of the batch with batch-norm statistics of their own.
      dtype, param_dtype: of the computation, of the parameters.
      remat: recompute each block in the backward pass instead of storing its activations (Chen et
        al. 2016).

    Raises:
      ValueError: an option is not one of its choices.
    """

    stage_sizes: tuple[int, ...]
    block: str
    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_classes: int = 1000
    groups: int = 1
    width_per_group: int = 64
    stem: str = "imagenet"
    stem_width: int | None = None
    shortcut: str = "B"
    avg_pool_shortcut: bool = False
    residual: bool = True
    version: str = "v1.5"
    zero_init_residual: bool = False
    stochastic_depth: float = 0.0
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    block_dropout: float = 0.0
    norm: str = "batch"
    momentum: float = 0.9
    epsilon: float = 1e-5
    frozen_statistics: bool = False
    frozen_affine: bool = False
    freeze_before: str | None = None
    start_stage: str | None = None
    axis_name: str | None = None
    conv_impl: str = "auto"
    batch_norm_groups: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False

    def __post_init__(self) -> None:
        for option, choices in CHOICES.items():
            if getattr(self, option) not in choices:
                raise ValueError(f"{option}={getattr(self, option)!r} is not one of {choices}")
        if len(self.widths) != len(self.stage_sizes):
            raise ValueError(f"{len(self.stage_sizes)} stages but {len(self.widths)} widths")
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups and width_per_group need block='bottleneck'")
        for option in ("freeze_before", "start_stage"):
            if getattr(self, option) not in (None, *self.stages):
                known = ", ".join(self.stages)
                raise ValueError(f"{option}={getattr(self, option)!r} is not a part: {known}")
        super().__post_init__()

    @property
    def stages(self) -> tuple[str, ...]:
        """``"stem"``, ``"layer1"``, ... and ``"fc"``, the head, in the order they run."""
        return "stem", *(f"layer{i + 1}" for i in range(len(self.stage_sizes))), "fc"

    def setup(self) -> None:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        after = self.version != "v2"  # each norm follows a convolution
        conv = partial(
            Conv, use_bias=self.norm == "folded" and after, conv_impl=self.conv_impl, **types
        )
        if self.norm == "folded":  # Linen traces initialisers again to check shapes: a quick one
            conv = partial(conv, kernel_init=nn.initializers.zeros)
        norm: Callable[..., nn.Module]
        if self.norm == "folded":
            norm = partial(FoldedNorm, affine=not after, **types)
        elif self.norm == "group":
            norm = partial(GroupNorm, epsilon=self.epsilon, **types)
        else:
            norm = partial(
                BatchNorm,
                momentum=self.momentum,
                epsilon=self.epsilon,
                axis_name=self.axis_name,
                groups=self.batch_norm_groups,
                frozen_statistics=self.frozen_statistics,
                frozen_affine=self.frozen_affine,
                conv_impl=self.conv_impl,
                **types,
            )
        self._setup_stem(conv, norm)
        self._setup_stages(conv, norm)
        if self.version == "v2":
            self.bn_last = norm()
        self.head_dropout = Dropout(self.dropout, axis_name=self.axis_name)
        fan_in = self.widths[-1] * EXPANSION[self.block]
        sizes = [fan_in, *self.hidden, self.num_classes]
        *self.fc_hidden, self.fc = (
            nn.Dense(size, kernel_init=dense_init, bias_init=dense_bias_init(before), **types)
            for before, size in pairwise(sizes)
        )

    def _setup_stem(self, conv: Callable[..., nn.Module], norm: Callable[..., nn.Module]) -> None:
        width = self.stem_width or self.widths[0]
        if self.stem == "deep":
            self.conv1_0 = conv(ConvSpec(width // 2, 3, 2))
            self.bn1_0 = norm()
            self.conv1_1 = conv(ConvSpec(width // 2, 3))
            self.bn1_1 = norm()
            self.conv1_2 = conv(ConvSpec(width, 3))
        else:
            spec = ConvSpec(width, 7, 2) if self.stem == "imagenet" else ConvSpec(width, 3)
            self.conv1 = conv(spec)
        if self.version != "v2":  # the first pre-activation block normalises its own input
            self.bn1 = norm()

    def _setup_stages(self, conv: Callable[..., nn.Module], norm: Callable[..., nn.Module]) -> None:
        constructor = nn.remat(ResidualBlock, static_argnums=(2,)) if self.remat else ResidualBlock
        total, number = sum(self.stage_sizes), 0
        for stage, (size, planes) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            blocks = []
            for i in range(size):
                number += 1
                stride = 2 if stage > 0 and i == 0 else 1
                layout = block_layout(
                    self.block, planes, stride, self.version, self.groups, self.width_per_group
                )
                blocks.append(
                    constructor(
                        layout,
                        conv,
                        norm,
                        shortcut=self.shortcut,
                        avg_pool_shortcut=self.avg_pool_shortcut,
                        residual=self.residual,
                        zero_init_residual=self.zero_init_residual,
                        preactivate=self.version == "v2",
                        folded=self.norm == "folded" and self.version != "v2",
                        drop_path=self.stochastic_depth * number / total,
                        dropout=self.block_dropout,
                        axis_name=self.axis_name,
                    )
                )
            setattr(self, f"layer{stage + 1}", blocks)  # Linen names them layer1_0, layer1_1, ...

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Every stage's output: ``"stem"`` (after its pooling), ``"layer1"``, ... ``[N, H, W, C]``,
        and ``"pooled"`` ``[N, C]``, the input of the classifier."""
        start = self.stages.index(self.start_stage or "stem")
        trained = self.stages.index(self.freeze_before or "stem")
        outputs, y = {}, x.astype(self.dtype)
        for i, part in enumerate(self.stages[start:-1], start):
            y = outputs[part] = self._part(part, y, train and i >= trained)
        # The head's own input is the pooled features.
        outputs["pooled"] = y if self.start_stage == "fc" else jnp.mean(y, axis=(1, 2))
        return outputs

    def _part(self, part: str, x: jax.Array, train: bool) -> jax.Array:
        if part == "stem":
            return self._stem(x, train)
        # Not `lax.scan` over equal blocks: in a loop XLA:CPU loses its quick convolutions (two
        # images' step of resnet152: 15.6 s, not 2.8), and compiles hardly sooner (28.5 s, not 30).
        for block in getattr(self, part):
            x = block(x, train)
        if part == self.stages[-2] and self.version == "v2":
            x = self.bn_last(x, train, relu=True)
        return x

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        folded = self.norm == "folded" and self.version != "v2"  # the convolution rectifies
        if self.stem == "deep":
            x = self.bn1_0(self.conv1_0(x), train, relu=True)
            x = self.bn1_1(self.conv1_1(x), train, relu=True)
            x = self.conv1_2(x, relu=folded)
        else:
            x = self.conv1(x, relu=folded)
        if self.version != "v2" and not folded:
            x = self.bn1(x, train, relu=True)
        if self.stem != "cifar":
            x = max_pool(x, 3, 2, 1, self.conv_impl)
        return x

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Images ``[N, H, W, C]`` to logits ``[N, num_classes]``."""
        y = self.features(x, train)["pooled"]
        for dense in self.fc_hidden:
            y = nn.relu(dense(y))
        logits = self.fc(self.head_dropout(y, train))
        # A loss in bfloat16 would round away small differences.
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def stage_of(layer: str, last: str) -> str:
    """Which part holds the parameters named ``layer``: ``"layer2"`` those of ``"layer2_0"``;
    ``last`` is the last part before the head."""
    if layer.startswith("fc"):
        return "fc"
    if layer == "bn_last":
        return last
    if layer.startswith(("conv1", "bn1")):
        return "stem"
    return "layer" + re.findall(r"\d+", layer)[0]  # layer2_0, or a conv2 between the stages
