"""The ResNet module: ResNet, ResNeXt, wide, pre-activation, SE, ECA, anti-aliased and RS ResNets.

Parameters carry torchvision's names (``conv1``, ``bn1``, ``layer3_5/conv2``,
``layer2_0/downsample_conv``, ``fc``). Images are ``[N, H, W, C]``.

Papers: He et al. 2015a "Deep Residual Learning" (v1, options A/B/C, CIFAR and plain networks); He
et al. 2016 "Identity Mappings" (v2); Xie et al. 2017 "Aggregated Residual Transformations"
(groups); Zagoruyko & Komodakis 2016 "Wide Residual Networks"; He et al. 2019 "Bag of Tricks"
(ResNet-C and -D); Hu et al. 2018 (SE), Wang et al. 2020 (ECA), Zhang 2019 (blur-pool), Kolesnikov
et al. 2020 (BiT) and Bello et al. 2021 (ResNet-RS).
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .antialiasing import ANTI_ALIASING, blur_pool, mean_pool
from .attention import EfficientChannelAttention, SqueezeExcitation
from .blocks import EXPANSION, PostActivationBlock, PreActivationBlock, conv_specs
from .layers import (
    Conv,
    ConvSpec,
    Dropout,
    conv_norm,
    dense_bias_init,
    dense_init,
    normalized,
    relu,
)
from .lowerings import CONV_IMPLS, max_pool
from .norm import BatchNorm, ChannelAffine, GroupNorm

# Kernel size and stride of the stem's (first) convolution.
STEMS = {"imagenet": (7, 2), "cifar": (3, 1), "deep": (3, 2), "tiered": (3, 2), "mnist": (5, 1)}
# Widths of the first two of three convolutions, in eighths of the stem's width.
DEEP_STEMS = {"deep": (4, 4), "tiered": (3, 4)}
# Window, stride and padding of the max-pool after the stem; the others have none by themselves.
STEM_POOLS = dict.fromkeys(("imagenet", "deep", "tiered"), (3, 2, 1)) | {"mnist": (2, 2, 0)}

CHOICES = {
    "block": tuple(EXPANSION),
    "stem": tuple(STEMS),
    "stem_pool": (None, "none", "max", "zero_padded_max", "conv"),
    "attention": (None, "se", "eca"),
    "anti_alias": (None, *ANTI_ALIASING),
    "downsampling": ("stride", "conv_pool"),
    "pooling": ("mean", "flatten"),
    "shortcut": ("A", "B", "C"),
    "version": ("v1", "v1.5", "v2"),
    "norm": ("batch", "group", "folded"),
    "conv_impl": CONV_IMPLS,
}
# Options that are 1 or more, or tuples of such numbers, or None.
SIZES = (
    *("stage_sizes", "widths", "hidden", "groups", "width_per_group", "stem_width"),
    *("se_reduction", "in_channels", "num_classes"),
)
# Options that are probabilities of dropping something.
RATES = ("dropout", "block_dropout", "stochastic_depth")


class ResNet(nn.Module):
    """A residual network; the named variants are rows of ``variants.VARIANTS``.

    ``model.init(key, x, train=False)`` takes images ``[N, H, W, C]`` of any ``C`` and returns
    ``{"params", "batch_stats"}``; ``model.apply`` returns logits ``[N, num_classes]`` in float32 or
    wider. In training pass ``mutable=["batch_stats"]``, and ``rngs={"dropout": key}`` if
    ``dropout``, ``block_dropout`` or ``stochastic_depth`` is used.

    Attributes:
        stage_sizes: Number of blocks in each stage.
        block: ``"basic"`` (two 3x3) or ``"bottleneck"`` (1x1, 3x3, 1x1; output 4x the planes).
        widths: Planes of each stage.
        num_classes: Number of outputs of the classifier.
        groups: Groups of the 3x3 convolution of a bottleneck, as in torchvision.
        width_per_group: Its width is ``planes * width_per_group / 64 * groups`` (Xie et al. 2017).
        stem: ``"imagenet"`` (7x7 stride 2, 3x3 max-pool stride 2), ``"cifar"`` (3x3), ``"deep"``
            (three 3x3, max-pool; He et al. 2019, ResNet-C), ``"tiered"`` (the same with a narrower
            first one; timm's ResNet-T) or ``"mnist"`` (5x5, 2x2 max-pool).
        in_channels: Channels of the images; by default those of the first that the model sees.
        stem_width: Channels of the stem; by default the planes of the first stage.
        stem_pool: What follows the stem: by default its max-pool, if it has one; ``"max"``;
            ``"none"``; ``"zero_padded_max"``, whose padding counts as zeros (BiT, Kolesnikov et al.
            2020); or ``"conv"``, a 3x3 convolution of stride 2 with norm and ReLU (ResNet-RS, Bello
            et al. 2021).
        attention: Gates on the channels of each branch: ``"se"`` (Hu et al. 2018) or ``"eca"``
            (Wang et al. 2020).
        se_reduction: Channels of a branch / hidden channels of its ``"se"``.
        anti_alias: What takes the stride in max-pool and blocks: ``"blur"`` (Zhang 2019) or the
            ``"mean"`` of 2x2 pixels, which in the stem takes the place of the max-pool.
        standardized_kernels: Standardise the kernels (Qiao et al. 2019), see
            ``layers.standardize``.
        downsampling: How a stage after the first halves its input: ``"stride"`` of its first block,
            or ``"conv_pool"``, a 3x3 convolution, norm, ReLU and 2x2 max-pool before its blocks.
        pooling: What the classifier sees of the last stage: the ``"mean"`` over the pixels, or
            ``"flatten"``, every pixel, which fixes the image size at initialisation.
        output_stride: Pixels of the image, in each direction, for a pixel of the last stage; by
            default each stage after the first halves its input. Stages that would exceed it keep
            their stride at 1 and dilate their 3x3 convolutions instead (Chen et al. 2017), as
            torchvision's ``replace_stride_with_dilation`` and timm's ``output_stride``.
        shortcut: Where the shape changes, ``"A"`` pads the identity with zero channels and ``"B"``
            projects; ``"C"`` projects everywhere (He et al. 2015a, section 4.1).
        avg_pool_shortcut: 2x2 average pool, then a 1x1 projection of stride 1 (ResNet-D).
        residual: False leaves out the shortcuts: the plain networks of He et al. 2015a.
        version: ``"v1"`` strides on the first 1x1 of a bottleneck, ``"v1.5"`` on its 3x3 (as
            torchvision), ``"v2"`` is pre-activation (He et al. 2016).
        zero_init_residual: The last scale of each branch (v2: the last kernel) starts at zero, so
            that a block starts as the identity (Goyal et al. 2017, section 5.1).
        stochastic_depth: Probability of skipping the branch of the last block; that of earlier
            blocks grows linearly towards it (Huang et al. 2016).
        hidden: Widths of hidden layers between the pooled features and the classifier, each
            followed by a ReLU.
        dropout: Dropout rate before the classifier.
        block_dropout: Dropout rate inside each block (wide ResNets).
        norm: ``"batch"``, ``"group"`` (Wu & He 2018), or ``"folded"``: for inference only, the
            result of ``fold_batch_norm``.
        momentum: Of batch norm, see ``norm.BatchNorm``.
        epsilon: Of batch norm and group norm.
        frozen_statistics: Freeze the running statistics of batch norm whatever ``train`` is.
        frozen_affine: Freeze the scale and bias of batch norm whatever ``train`` is.
        freeze_before: The first of ``stages`` that runs as in training. The stages before it run as
            in evaluation whatever ``train`` is: their batch norms keep their statistics, and they
            drop nothing. Their parameters have gradients; the optimiser decides whether they train
            (``TrainStep.trainable``, ``optax.masked``, NNX's ``wrt``).
        start_stage: The stage at which the model starts: it takes the input of that stage instead
            of images.
        axis_name: Mapped axis (``shard_map``, ``pmap``) over which batch-norm statistics are shared
            and examples are counted; the training step sets it.
        conv_impl: How convolutions are computed on CPU: ``"auto"`` chooses, ``"jax"`` excludes
            oneDNN, ``"onednn"`` requires it, ``"reference"`` leaves all to XLA; see ``lowerings``.
        batch_norm_groups: Groups of the batch with batch-norm statistics of their own.
        dtype: Dtype of the computation.
        param_dtype: Dtype of the parameters.
        remat: Recompute each block in the backward pass instead of storing its activations (Chen et
            al. 2016).

    Raises:
        ValueError: An option is not one of its choices.
    """

    stage_sizes: tuple[int, ...]
    block: str
    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_classes: int = 1000
    groups: int = 1
    width_per_group: int = 64
    stem: str = "imagenet"
    in_channels: int | None = None
    stem_width: int | None = None
    stem_pool: str | None = None
    attention: str | None = None
    se_reduction: int = 16
    anti_alias: str | None = None
    standardized_kernels: bool = False
    downsampling: str = "stride"
    pooling: str = "mean"
    output_stride: int | None = None
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
        for option in ("stage_sizes", "widths", "hidden"):
            if isinstance(value := getattr(self, option), list):
                object.__setattr__(self, option, tuple(value))  # a module must be hashable
        for option, choices in CHOICES.items():
            if getattr(self, option) not in choices:
                raise ValueError(f"{option}={getattr(self, option)!r} is not one of {choices}")
        if not self.stage_sizes:
            raise ValueError("stage_sizes=() has no stage: give the number of blocks of each")
        if len(self.widths) != len(self.stage_sizes):
            raise ValueError(f"{len(self.stage_sizes)} stages but {len(self.widths)} widths")
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError("groups and width_per_group need block='bottleneck'")
        if self.version == "v2" and (self.attention or self.anti_alias or self.stem_pool == "conv"):
            raise ValueError(
                "attention, anti_alias and stem_pool='conv' need version='v1.5' or 'v1'"
            )
        if self.anti_alias and self.stem_pool in ("zero_padded_max", "conv"):
            raise ValueError(f"anti_alias does not go with stem_pool={self.stem_pool!r}")
        if self.anti_alias and self.downsampling == "conv_pool":
            # The max-pools of the stages would keep their aliasing without a word.
            raise ValueError("anti_alias needs downsampling='stride'")
        for option in SIZES:
            value = getattr(self, option)
            numbers = value if isinstance(value, tuple | list) else (value,)
            # A stage that begins with a convolution of its own may have no block after it.
            is_stage = option == "stage_sizes" and self.downsampling == "conv_pool"
            least = 0 if is_stage else 1
            if any(number is not None and number < least for number in numbers):
                raise ValueError(f"{option}={value} is not {least} or more")
        if self.block == "bottleneck" and min(self.widths) * self.width_per_group < 64:
            raise ValueError(
                f"width_per_group={self.width_per_group} leaves no channel to a bottleneck of "
                f"{min(self.widths)} planes"
            )
        stem_width = self.stem_width or self.widths[0]
        if stem_width * min(DEEP_STEMS.get(self.stem, (8,))) < 8:
            raise ValueError(
                f"{stem_width} channels are too few for the first convolutions of "
                f"stem={self.stem!r}: give a larger stem_width"
            )
        for option in RATES:
            if not 0 <= getattr(self, option) < 1:
                raise ValueError(f"{option}={getattr(self, option)} is not 0 or more and below 1")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum} is not from 0 to 1")
        for option in ("freeze_before", "start_stage"):
            if getattr(self, option) not in (None, *self.stages):
                known = ", ".join(self.stages)
                raise ValueError(f"{option}={getattr(self, option)!r} is not a stage: {known}")
        strides = [self._stem_stride * 2**i for i in range(len(self.stage_sizes))]
        if self.output_stride not in (None, *strides):
            known = ", ".join(map(str, strides))
            raise ValueError(f"output_stride={self.output_stride} is not one of {known}")
        dilates = self.output_stride not in (None, strides[-1])
        if dilates and (self.downsampling != "stride" or self.anti_alias):
            raise ValueError("output_stride needs downsampling='stride' and anti_alias=None")
        super().__post_init__()

    @property
    def stages(self) -> tuple[str, ...]:
        """``"stem"``, ``"layer1"``, ... and ``"fc"``, the head, in the order they run."""
        return "stem", *(f"layer{i + 1}" for i in range(len(self.stage_sizes))), "fc"

    @property
    def stage_strides(self) -> dict[str, int]:
        """Pixels of the image, in each direction, for a pixel of the output of each stage."""
        most = self.output_stride or self._stem_stride * 2 ** len(self.stage_sizes)
        strides = {"stem": self._stem_stride}
        for i, stage in enumerate(self.stages[1:-1]):
            strides[stage] = min(self._stem_stride * 2**i, most)
        return strides

    @property
    def pool_after_stem(self) -> str:
        """What follows the stem: ``stem_pool``, or what is usual for the stem."""
        return self.stem_pool or ("max" if self.stem in STEM_POOLS else "none")

    @property
    def _stem_stride(self) -> int:
        return STEMS[self.stem][1] * (1 if self.pool_after_stem == "none" else 2)

    def setup(self) -> None:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        absorbs_norm = self.norm == "folded" and self.version != "v2"
        conv = partial(Conv, use_bias=absorbs_norm, conv_impl=self.conv_impl, **types)
        if self.standardized_kernels:
            conv = partial(conv, standardized=True)
        if self.norm == "folded":  # Linen traces initialisers again to check shapes: a quick one
            conv = partial(conv, kernel_init=nn.initializers.zeros)
        norm: Callable[..., Any] = _no_norm if absorbs_norm else self._norm_constructor(types)
        self._setup_stem(conv, norm)
        self._setup_stages(conv, norm)
        if self.version == "v2":
            self.bn_last = norm()
        self.head_dropout = Dropout(self.dropout, axis_name=self.axis_name)
        # The inputs of a head that sees every pixel are not known before the images are.
        fan_in = self.widths[-1] * EXPANSION[self.block] if self.pooling == "mean" else None
        fan_ins, sizes = (fan_in, *self.hidden), (*self.hidden, self.num_classes)
        *self.fc_hidden, self.fc = (
            nn.Dense(size, kernel_init=dense_init, bias_init=dense_bias_init(inputs), **types)
            for inputs, size in zip(fan_ins, sizes, strict=True)
        )

    def _norm_constructor(self, types: dict[str, Any]) -> Callable[..., nn.Module]:
        if self.norm == "folded":
            return partial(ChannelAffine, **types)
        if self.norm == "group":
            return partial(GroupNorm, epsilon=self.epsilon, **types)
        return partial(
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

    def _setup_stem(self, conv: Callable[..., Conv], norm: Callable[..., Any]) -> None:
        width = self.stem_width or self.widths[0]
        kernel, stride = STEMS[self.stem]
        if self.stem in DEEP_STEMS:
            first, second = (width * eighths // 8 for eighths in DEEP_STEMS[self.stem])
            self.conv1_0 = conv(ConvSpec(first, kernel, stride))
            self.bn1_0 = norm()
            self.conv1_1 = conv(ConvSpec(second, kernel))
            self.bn1_1 = norm()
            self.conv1_2 = conv(ConvSpec(width, kernel))
        else:
            self.conv1 = conv(ConvSpec(width, kernel, stride))
        if self.version != "v2":  # The first pre-activation block normalises its own input.
            self.bn1 = norm()
        if self.stem_pool == "conv":
            self.conv1_pool = conv(ConvSpec(width, 3, 2))
            self.bn1_pool = norm()

    def _attention_constructor(self, conv: Callable[..., Conv]) -> Callable[..., nn.Module] | None:
        if self.attention == "se":
            conv = partial(conv, use_bias=True, standardized=False)
            return partial(SqueezeExcitation, conv, self.se_reduction)
        if self.attention == "eca":
            return partial(
                EfficientChannelAttention, dtype=self.dtype, param_dtype=self.param_dtype
            )
        return None

    def _setup_stages(self, conv: Callable[..., Conv], norm: Callable[..., Any]) -> None:
        block = PreActivationBlock if self.version == "v2" else PostActivationBlock
        constructor = nn.remat(block, static_argnums=(2,)) if self.remat else block
        total, number, dilation = sum(self.stage_sizes), 0, 1
        strides = [*self.stage_strides.values()]
        for stage, (size, planes) in enumerate(
            zip(self.stage_sizes, self.widths, strict=True), start=1
        ):
            pools = self.downsampling == "conv_pool" and stage > 1
            if pools:
                setattr(self, f"conv{stage}", conv(ConvSpec(planes, 3)))
                setattr(self, f"bn{stage}", norm())
            halves = strides[stage] > strides[stage - 1]
            # The first block of a stage still has the dilation of the stage before it.
            first_dilation, dilation = dilation, dilation * (1 if stage == 1 or halves else 2)
            blocks = []
            for i in range(size):
                number += 1
                specs = conv_specs(
                    self.block,
                    planes,
                    2 if halves and i == 0 and not pools else 1,
                    self.version,
                    self.groups,
                    self.width_per_group,
                    (first_dilation if i == 0 else dilation, dilation),
                )
                blocks.append(
                    constructor(
                        specs,
                        conv,
                        norm,
                        self._attention_constructor(conv),
                        self.anti_alias,
                        shortcut=self.shortcut,
                        avg_pool_shortcut=self.avg_pool_shortcut,
                        residual=self.residual,
                        zero_init_residual=self.zero_init_residual,
                        dilation=dilation,
                        drop_path=self.stochastic_depth * number / total,
                        dropout=self.block_dropout,
                        axis_name=self.axis_name,
                    )
                )
            setattr(self, f"layer{stage}", blocks)  # Linen names them layer1_0, layer1_1, ...

    def features(
        self, x: jax.Array, train: bool = False, stages: Sequence[str] | None = None
    ) -> dict[str, jax.Array]:
        """The output of stages before the head, and the input of the head.

        Args:
            x: Images ``[N, H, W, C]``, or the input of ``start_stage``.
            train: Whether the model trains.
            stages: Names of the outputs, or one name; the model runs up to the last of them. By
                default all.

        Returns:
            ``"stem"`` (after its pooling), ``"layer1"``, ... ``[N, H, W, C]``, and ``"pooled"``
            ``[N, C]``. ``stage_strides`` has the scale of each.

        Raises:
            ValueError: A name in ``stages`` is not one of these.
        """
        start = self.stages.index(self.start_stage or "stem")
        trained = self.stages.index(self.freeze_before or "stem")
        names = (*self.stages[start:-1], "pooled")
        stages = (stages,) if isinstance(stages, str) else stages
        wanted = names if stages is None else tuple(stages)
        if unknown := set(wanted) - set(names):
            raise ValueError(f"no output is named {min(unknown)!r}; known: {', '.join(names)}")
        last = max(map(names.index, wanted), default=-1)
        outputs, y = {}, x.astype(self.dtype)
        for i, name in enumerate(names[: last + 1], start):
            if name == "pooled":
                y = y if self.start_stage == "fc" else self.pool(y)
            else:
                y = self._run_stage(name, y, train and i >= trained)
            outputs[name] = y
        return {name: y for name, y in outputs.items() if name in wanted}

    def _run_stage(self, stage: str, x: jax.Array, train: bool) -> jax.Array:
        if stage == "stem":
            return self._stem(x, train)
        if self.downsampling == "conv_pool" and stage != "layer1":
            number = stage.removeprefix("layer")
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"bn{number}")
            x = max_pool(relu(conv_norm(conv, norm, x, train)), 2, 2, conv_impl=self.conv_impl)
        # Not `lax.scan` over equal blocks: in a loop XLA:CPU loses its quick convolutions (two
        # images' step of resnet152: 15.6 s, not 2.8), and compiles hardly sooner (28.5 s, not 30).
        for block in getattr(self, stage):
            x = block(x, train)
        if stage == self.stages[-2] and self.version == "v2":
            x = relu(normalized(self.bn_last, x, train))
        return x

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if self.in_channels not in (None, x.shape[-1]):
            raise ValueError(
                f"the images {x.shape} have {x.shape[-1]} channels, in_channels={self.in_channels}"
            )
        if self.stem in DEEP_STEMS:
            x = relu(conv_norm(self.conv1_0, self.bn1_0, x, train))
            x = relu(conv_norm(self.conv1_1, self.bn1_1, x, train))
        conv = self.conv1_2 if self.stem in DEEP_STEMS else self.conv1
        x = conv(x) if self.version == "v2" else relu(conv_norm(conv, self.bn1, x, train))
        return self._stem_pool(x, train)

    def _stem_pool(self, x: jax.Array, train: bool) -> jax.Array:
        kind = self.pool_after_stem
        if kind == "none":
            return x
        if kind == "conv":
            return relu(conv_norm(self.conv1_pool, self.bn1_pool, x, train))
        if self.anti_alias == "mean":
            return mean_pool(x)
        window, stride, padding = STEM_POOLS.get(self.stem, (3, 2, 1))
        if self.anti_alias == "blur":
            return blur_pool(max_pool(x, window, 1, padding, self.conv_impl))
        if kind == "zero_padded_max":
            x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
            padding = 0
        return max_pool(x, window, stride, padding, self.conv_impl)

    def pool(self, x: jax.Array) -> jax.Array:
        """The input of the head ``[N, C]``, from the output of the last stage."""
        return x.reshape(x.shape[0], -1) if self.pooling == "flatten" else jnp.mean(x, axis=(1, 2))

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Computes logits ``[N, num_classes]`` of images ``[N, H, W, C]``."""
        y = self.features(x, train)["pooled"]
        for dense in self.fc_hidden:
            y = relu(dense(y))
        logits = self.fc(self.head_dropout(y, train))
        # A loss in bfloat16 would round away small differences.
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _no_norm(**_: Any) -> None:
    """The constructor of a norm that is folded into the convolution before it."""


def stage_of(layer: str, last: str) -> str:
    """The stage that holds the parameters named ``layer``.

    Args:
        layer: Such as ``"layer2_0"``, which belongs to ``"layer2"``.
        last: The last stage before the head, which also holds ``bn_last``.
    """
    if layer.startswith("fc"):
        return "fc"
    if layer == "bn_last":
        return last
    if re.match(r"(conv|bn)1(?!\d)", layer):  # conv10 is before the blocks of layer10
        return "stem"
    return "layer" + re.findall(r"\d+", layer)[0]  # layer2_0, or a conv2 before its blocks
