"""timm's architectures: which of them are models here, and their names of arrays.

timm calls the arrays of its ``ResNet`` as torchvision does; those of its ``ResNetV2`` it calls
``stem.conv1``, ``stages.0.blocks.0.norm1``, ``norm`` and ``head.fc``.
"""

import dataclasses
import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..models import ResNet
from ..models.timm_variants import TIMM_VARIANTS
from ..models.variants import variant_options
from ..transform import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, Interpolation
from .infer import UNSEEN_OPTIONS

# timm's architectures under the same names here: those of torchvision, and the table of its own.
TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
ARCHITECTURES = frozenset((*TORCHVISION, "resnet200", *TIMM_VARIANTS))

# Names that timm has given up, in repositories from before: pattern and today's name.
FORMER_NAMES = (
    (r"(?:tv|ssl|swsl|ig)_(\w+)", r"\1"),
    (r"gluon_(resnet\d+)_v1b", r"\1"),
    (r"gluon_(resnet\d+)_v1([cds])", r"\1\2"),
    (r"gluon_(\w+)", r"\1"),
    (r"(resnetv2_\d+x\d)_bit(?:m|m_in21k|_distilled|_teacher|_teacher_384)", r"\1_bit"),
    (r"seresnext26tn_32x4d", "seresnext26t_32x4d"),
)

# Other architectures of timm with "resnet", "resnext" or the like in the name: pattern and reason.
UNSUPPORTED = {
    "*_pruned": "its layers have widths that no rule gives",
    "test_resnet": "it mixes basic and bottleneck blocks",
    "senet154": "its shortcuts are 3x3 and its blocks start with half the channels",
    "resnetv2_50d_evos": "it has EvoNorm in place of norm and ReLU",
    "resnetv2_50d_frn": "it has filter response norm with a learned threshold",
    "legacy_se*": "it strides on the first 1x1 of a block, after a stem with another max-pool",
    "*_clip*": "it is CLIP's image tower, with another stem or attention pooling",
    "*resne*ts": "it has SiLU, another stem, and attention inside the blocks",
    "resnet??q": "it has SiLU and another stem",
    "gcres*": "it has global context blocks",
    "resnet50_mlp": "it has SiLU, another stem, and layers before the classifier",
    "cspres*": "it has cross-stage partial connections",
    "inception_resnet_v2": "it has Inception's branches",
    "lambda_resnet*": "it has lambda layers",
    "nf_*": "it has scaled kernels in place of norms",
    "resnest*": "it has split attention",
    "skres*": "it has selective kernels",
    "tresnet*": "it has a space-to-depth stem and leaky ReLU",
    "vit_*": "it is a vision transformer",
}

# torchvision's and timm's names of the modules outside of the stages of a ``ResNetV2``.
_V2_MODULES = {
    "conv1": "stem.conv",
    "conv1.0": "stem.conv1",
    "conv1.1": "stem.norm1",
    "conv1.3": "stem.conv2",
    "conv1.4": "stem.norm2",
    "conv1.6": "stem.conv3",
    "bn_last": "norm",
    "fc": "head.fc",
}
_FROM_V2_MODULES = {timm: ours for ours, timm in _V2_MODULES.items()}


def variant_of(architecture: str) -> str:
    """Return the name here of one of timm's architectures.

    Raises:
        UserError: There is no such model here; the message holds the reason where it is known.
    """
    name = architecture
    for pattern, replacement in FORMER_NAMES:
        if match := re.fullmatch(pattern, architecture):
            name = match.expand(replacement)
            break
    if name in ARCHITECTURES:
        return name
    for pattern, reason in UNSUPPORTED.items():
        if fnmatch.fnmatchcase(name, pattern):
            raise UserError(f"timm's {architecture} is not supported: {reason}")
    raise UserError(f"{architecture!r} is not one of timm's ResNets that are supported")


# Options that decide what a model computes, by the argument of timm's ``ResNet`` for each.
_ARGUMENTS = {
    "stage_sizes": "layers",
    "widths": "channels",
    "groups": "cardinality",
    "width_per_group": "base_width",
    "avg_pool_shortcut": "avg_down",
    "output_stride": "output_stride",
}
# Options of training, or of how something is computed.
_OF_TRAINING = {
    *("num_classes", "in_channels", "zero_init_residual", "stochastic_depth", "dropout"),
    *("block_dropout", "momentum", "frozen_statistics", "frozen_affine", "freeze_before"),
    *("axis_name", "conv_impl", "batch_norm_groups", "dtype", "param_dtype", "remat"),
}
_DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(ResNet)
    if field.name not in ("parent", "name")
}


def timm_architecture(model: ResNet) -> tuple[str, dict[str, Any]]:
    """Return timm's architecture for a model, and arguments of timm's ``create_model``.

    Raises:
        UserError: timm cannot express the model; the options that differ are named.
    """
    wanted = _comparable({name: getattr(model, name) for name in _DEFAULTS})
    candidates = {}
    for name in (*TORCHVISION, *sorted(ARCHITECTURES - set(TORCHVISION))):
        row = _comparable(_DEFAULTS | variant_options(name))
        candidates[name] = {key: value for key, value in wanted.items() if row[key] != value}
    # timm's ``ResNetV2`` has arguments of other names; all of its models have four stages.
    takes_arguments = model.version != "v2" and len(model.stage_sizes) == 4
    known = set(_ARGUMENTS) | ({"stem_width"} if "deep" in str(model.stem) else set())
    if model.output_stride not in (None, *_VALUES["output_stride"]):
        known.remove("output_stride")

    def left(name: str) -> list[str]:
        return [key for key in candidates[name] if not takes_arguments or key not in known]

    name = min(candidates, key=lambda name: (len(left(name)), len(candidates[name])))
    if differing := left(name):
        described = ", ".join(f"{key}={candidates[name][key]!r}" for key in differing)
        raise UserError(f"timm has no {name} with {described}")
    arguments = {_ARGUMENTS[k]: v for k, v in candidates[name].items() if k in _ARGUMENTS}
    if "stem_width" in candidates[name]:
        arguments["stem_width"] = candidates[name]["stem_width"] // 2
    return name, arguments


def _comparable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model computes as options that are equal for equal models."""
    compared = {name: value for name, value in options.items() if name not in _OF_TRAINING}
    compared["stem_width"] = options["stem_width"] or options["widths"][0]
    if options["block"] == "basic" and options["version"] == "v1":
        compared["version"] = "v1.5"  # they differ in bottlenecks only
    return compared


# Arguments of timm's constructors that do not change what a trained model computes, ...
_HARMLESS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate")
# ... that arrays show, ...
_SHOWN = ("layers", "channels", "cardinality", "base_width", "avg_down", "stem_width")
# ... and that may have these values only.
_VALUES = {"global_pool": ("avg",), "output_stride": (8, 16, 32)}


@dataclass(frozen=True)
class TimmDescription:
    """What timm's ``config.json`` says about weights.

    Attributes:
        name: Name of the model here; None where arguments change it, and arrays show to what.
        known: Options of the model that arrays do not show.
        transform: The evaluation's transform.
        classes: Number of classes; None where it does not say.
        labels: Names of the classes; empty where it has none.
    """

    name: str | None
    known: Mapping[str, Any]
    transform: EvalTransform
    classes: int | None
    labels: tuple[str, ...]


def read_description(config: Mapping[str, Any]) -> TimmDescription:
    """Read the entries of timm's ``config.json``.

    Raises:
        UserError: The architecture, an argument of it or the preprocessing is not supported.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise UserError("config.json does not name timm's architecture")
    name = variant_of(architecture)
    arguments, inner = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
    if not isinstance(arguments, Mapping) or not isinstance(inner, Mapping):
        raise UserError("config.json of timm has a model_args or pretrained_cfg that is no object")
    others = [
        f"{argument}={value!r}"
        for argument, value in arguments.items()
        if argument not in (*_HARMLESS, *_SHOWN) and value not in _VALUES.get(argument, ())
    ]
    if others:
        raise UserError(f"timm's {architecture} with {', '.join(others)} is not supported")
    row = _DEFAULTS | variant_options(name)
    known = {option: row[option] for option in UNSEEN_OPTIONS}
    if arguments.get("output_stride", 32) != 32:  # there each stage halves its input, as usual
        known["output_stride"] = arguments["output_stride"]
    if "avg_down" in arguments:
        known["avg_pool_shortcut"] = arguments["avg_down"]
    # Early repositories have the entries of pretrained_cfg at the top.
    settings = {**inner, **config}
    if settings.get("label_offset"):
        raise UserError("a classifier with a label_offset is not supported")
    classes = settings.get("num_classes")
    labels = settings.get("label_names") or settings.get("labels") or ()
    if type(classes) not in (int, type(None)) or not isinstance(labels, list | tuple | Mapping):
        raise UserError(
            f"config.json of timm with num_classes={classes!r:.80} and labels of type "
            f"{type(labels).__name__} is not supported"
        )
    if isinstance(labels, Mapping):  # by number, where not all numbers have a name
        labels = [labels.get(str(i), str(i)) for i in range(classes or 0)]
    is_changed = not set(_SHOWN).isdisjoint(arguments)
    return TimmDescription(
        name=None if is_changed else name,
        known=known,
        transform=timm_transform(settings),
        classes=classes,
        labels=tuple(map(str, labels)),
    )


def timm_transform(settings: Mapping[str, Any]) -> EvalTransform:
    """Return the evaluation transform of a ``pretrained_cfg`` of timm.

    timm evaluates at ``test_input_size`` and ``test_crop_pct`` where a set has them. It resizes the
    shorter side to the crop divided by ``crop_pct``, or, by the ``crop_mode`` ``"squash"``, each
    side.

    Raises:
        UserError: The images are not square, or a value is not supported.
    """
    shape = settings.get("test_input_size") or settings.get("input_size") or (3, 224, 224)
    ratio = settings.get("test_crop_pct") or settings.get("crop_pct") or 0.875
    mode = settings.get("crop_mode") or "center"
    filters: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic"}
    interpolation = settings.get("interpolation") or "bicubic"
    mean, std = settings.get("mean") or IMAGENET_MEAN, settings.get("std") or IMAGENET_STD
    is_typed = (
        _are_numbers(shape, int)
        and len(shape) == 3
        and min(shape) > 0
        and _are_numbers((ratio,), int, float)
        and _are_numbers(mean, int, float)
        and _are_numbers(std, int, float)
        and min(std, default=0) > 0
        and isinstance(interpolation, str)
    )
    if not is_typed:
        raise UserError(
            f"preprocessing of timm with input_size={shape!r:.80}, crop_pct={ratio!r:.80}, "
            f"interpolation={interpolation!r:.80}, mean={mean!r:.80} and std={std!r:.80} has a "
            "value of another type or range: correct config.json, or load its file of weights alone"
        )
    channels, height, width = shape
    # With the whole image squeezed, nothing is left to crop.
    is_supported = mode == "center" or (mode == "squash" and ratio == 1)
    if height != width or interpolation not in filters or not is_supported or not 0 < ratio <= 1:
        raise UserError(
            f"preprocessing of timm with input_size={list(shape)}, crop_mode={mode!r}, "
            f"crop_pct={ratio} and interpolation={interpolation!r} is not supported, only square "
            'images, "center" or the whole image squeezed ("squash" at 1.0), bilinear or bicubic'
        )
    if channels not in (1, 3) or {len(mean), len(std)} != {channels}:
        raise UserError(
            f"images of {channels} channels with {len(mean)} means and {len(std)} standard "
            "deviations are not supported, only 1 or 3 of each"
        )
    return EvalTransform(
        height=height,
        width=width,
        resize=None if mode == "squash" else math.floor(height / ratio),
        interpolation=filters[interpolation],
        channels=channels,
        mean=tuple(mean),
        std=tuple(std),
    )


def _are_numbers(values: Any, *types: type) -> bool:
    is_list = isinstance(values, list | tuple)
    return is_list and all(type(value) in types and math.isfinite(value) for value in values)


def v2_name(name: str) -> str:
    """Return the name in timm's ``ResNetV2`` of an array by its name in torchvision's style."""
    module, _, leaf = name.rpartition(".")
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(\w+)(\.\d)?", module):
        stage, block, layer = int(match[1]) - 1, match[2], match[3].replace("bn", "norm")
        layer = "downsample.conv" if layer == "downsample" else layer
        return f"stages.{stage}.blocks.{block}.{layer}.{leaf}"
    return f"{_V2_MODULES[module]}.{leaf}"


def from_v2_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Rename arrays of a ``ResNetV2`` to torchvision's style.

    All that have a deep stem average the pixels before they project a shortcut (ResNet-D), which
    the names do not say.
    """
    projection = "downsample.1" if "stem.conv1.weight" in found else "downsample.0"
    return {_from_v2_name(name, projection): value for name, value in found.items()}


def _from_v2_name(name: str, projection: str) -> str:
    module, _, leaf = name.rpartition(".")
    if match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.([\w.]+)", module):
        layer = match[3].replace("norm", "bn").replace("downsample.conv", projection)
        return f"layer{int(match[1]) + 1}.{match[2]}.{layer}.{leaf}"
    return f"{_FROM_V2_MODULES.get(module, module)}.{leaf}"
