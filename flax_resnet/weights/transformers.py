"""ResNets of the library transformers: names of arrays, ``config.json``, and image processors."""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..models import ResNet
from ..models.blocks import EXPANSION
from ..transform import EvalTransform, Interpolation

_STEM = "embedder.embedder."
_BLOCK = re.compile(
    r"(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\."
    r"(?:layer\.(\d+)|(shortcut))\.(convolution|normalization)\.(.+)"
)
_STEM_LAYER = re.compile(rf"(?:resnet\.)?{re.escape(_STEM)}(convolution|normalization)\.(.+)")
_OUR_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(?:(conv|bn)(\d+)|downsample\.([01]))\.(.+)")
_KINDS = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}

# ResNetConfig's own values, for the entries that a config.json leaves out.
_DEFAULTS: Mapping[str, Any] = {
    "num_channels": 3,
    "embedding_size": 64,
    "hidden_sizes": (256, 512, 1024, 2048),
    "depths": (3, 4, 6, 3),
    "layer_type": "bottleneck",
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
_ONLY = {"hidden_act": "relu", "downsample_in_first_stage": False}

# Options of a ResNet for which transformers has one value only; the others decide the config.
_FIXED: Mapping[str, Any] = {
    "groups": 1,
    "width_per_group": 64,
    "stem": "imagenet",
    "stem_pool": None,
    "attention": None,
    "anti_alias": None,
    "standardized_kernels": False,
    "downsampling": "stride",
    "pooling": "mean",
    "shortcut": "B",
    "avg_pool_shortcut": False,
    "residual": True,
    "hidden": (),
    "norm": "batch",
    "epsilon": 1e-5,
}

# Filters by their number in Pillow.
_FILTERS: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
_PROCESSORS = ("ConvNext", "ViT", "Bit", "CLIP")
# The types that arithmetic below needs; None stands for an absent value.
_PROCESSOR_TYPES: Mapping[str, Any] = {
    "image_processor_type": str,
    "feature_extractor_type": str,
    "rescale_factor": int | float,
    "resample": int,
    "crop_pct": int | float,
}
_MOST = 2**16  # of blocks and channels; a larger model would never be built
_SQUEEZES_FROM = 384  # ConvNextImageProcessor crops smaller images only


def torchvision_name(name: str) -> str:
    """Return torchvision's name of an array of transformers; other names are returned as they are.

    Example: ``resnet.encoder.stages.0.layers.2.layer.1.convolution.weight`` is
    ``layer1.2.conv2.weight``.
    """
    if match := _STEM_LAYER.fullmatch(name):
        return f"{'conv1' if match[1] == 'convolution' else 'bn1'}.{match[2]}"
    if match := _BLOCK.fullmatch(name):
        stage, block, layer, _, kind, leaf = match.groups()
        is_conv = kind == "convolution"
        if layer is None:
            inside = f"downsample.{0 if is_conv else 1}"
        else:
            inside = f"{'conv' if is_conv else 'bn'}{int(layer) + 1}"
        return f"layer{int(stage) + 1}.{block}.{inside}.{leaf}"
    return re.sub(r"^classifier\.1\.", "fc.", name)


def transformers_name(name: str) -> str:
    """Return the name in ``ResNetForImageClassification`` of an array of torchvision."""
    if match := _OUR_BLOCK.fullmatch(name):
        stage, block, kind, number, projection, leaf = match.groups()
        layer = "shortcut" if kind is None else f"layer.{int(number) - 1}"
        where = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{layer}"
        return f"{where}.{_KINDS[kind or projection]}.{leaf}"
    module, _, leaf = name.partition(".")
    modules = {
        "conv1": f"resnet.{_STEM}convolution",
        "bn1": f"resnet.{_STEM}normalization",
        "fc": "classifier.1",
    }
    return f"{modules[module]}.{leaf}"


def transformers_config(model: ResNet) -> dict[str, Any]:
    """Return the fields of transformers' ``ResNetConfig`` that describe ``model``.

    The number of channels is not among them, because a model takes images of any.

    Raises:
        UserError: transformers has no such model.
    """
    differing = [
        f"{option}={getattr(model, option)!r}"
        for option, value in _FIXED.items()
        if getattr(model, option) != value
    ]
    if model.version == "v2":
        differing.append("version='v2'")
    if differing:
        raise UserError(f"transformers has no ResNet with {', '.join(differing)}.")
    return {
        "embedding_size": model.stem_width or model.widths[0],
        "hidden_sizes": [width * EXPANSION[model.block] for width in model.widths],
        "depths": list(model.stage_sizes),
        "layer_type": model.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": model.version == "v1" and model.block == "bottleneck",
    }


def model_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``ResNet`` that a ``config.json`` of transformers describes.

    Raises:
        UserError: The config is not a ResNet's, or has a value that is not supported; both are
            named.
    """
    if (kind := config.get("model_type")) != "resnet":
        raise UserError(f"its config.json describes a model of the type {kind!r}, not 'resnet'.")
    fields = {name: config.get(name, value) for name, value in _DEFAULTS.items()}
    for name, value in _ONLY.items():
        if fields[name] != value:
            raise UserError(
                f"its config.json has {name}={fields[name]!r}; only {value!r} is supported."
            )
    block, depths, sizes = fields["layer_type"], fields["depths"], fields["hidden_sizes"]
    if not isinstance(block, str) or block not in EXPANSION:
        raise UserError(
            f"its config.json has layer_type={block!r}; only {' and '.join(EXPANSION)} are known."
        )
    expansion = EXPANSION[block]
    is_valid = isinstance(depths, list | tuple) and isinstance(sizes, list | tuple)
    numbers = [*depths, *sizes, fields["embedding_size"]] if is_valid else []
    is_valid &= all(type(number) is int and 0 < number < _MOST for number in numbers)
    if not is_valid or len(depths) != len(sizes) or any(size % expansion for size in sizes):
        raise UserError(
            f"its config.json has depths={depths!r}, hidden_sizes={sizes!r} and embedding_size="
            f"{fields['embedding_size']!r}: they must be lists of the same length of positive "
            f"integers below {_MOST:,}, and the sizes multiples of {expansion}."
        )
    return {
        "stage_sizes": tuple(depths),
        "block": block,
        "widths": tuple(size // expansion for size in sizes),
        "stem": "imagenet",
        "stem_width": fields["embedding_size"],
        "version": "v1" if fields["downsample_in_bottleneck"] else "v1.5",
    }


def class_names(config: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """Return the names of ``count`` classes in a ``config.json``; None where it has none.

    Raises:
        UserError: The config names another number of classes.
    """
    named = config.get("id2label")
    if not named:
        return None
    try:
        by_index = {int(index): str(name) for index, name in named.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"its config.json has an id2label that names no classes ({error}).") from (
            error
        )
    if sorted(by_index) != list(range(count)):
        raise UserError(
            f"its config.json names {len(by_index)} classes in id2label, but the weights have "
            f"{count}."
        )
    return tuple(by_index[index] for index in range(count))


def processor_transform(config: Mapping[str, Any], channels: int = 3) -> EvalTransform:
    """Return the evaluation transform that a ``preprocessor_config.json`` describes.

    Args:
        config: The file, of ``ConvNextImageProcessor`` (which transformers uses for ResNets), or of
            a processor that squeezes (``ViTImageProcessor``) or crops (``BitImageProcessor``,
            ``CLIPImageProcessor``).
        channels: Channels of the model's images.

    Raises:
        UserError: A setting is missing or not supported; it is named.
    """
    for name, types in _PROCESSOR_TYPES.items():
        if not isinstance(config.get(name), types | None):
            raise _unsupported(config, name)
    written = config.get("image_processor_type") or config.get("feature_extractor_type")
    kind = re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", written or "ConvNext")
    normalizes = config.get("do_normalize", True)
    mean = config.get("image_mean") if normalizes else (0,) * channels
    std = config.get("image_std") if normalizes else (1,) * channels
    sizes = _sizes(config, kind)
    supported = {
        "image_processor_type": kind in _PROCESSORS,
        "do_resize": config.get("do_resize", True),
        "do_rescale": config.get("do_rescale", True),
        "rescale_factor": abs((config.get("rescale_factor") or 1 / 255) * 255 - 1) < 1e-6,
        "do_pad": not config.get("do_pad"),
        "resample": config.get("resample") in _FILTERS,
        "size": sizes is not None and min(sizes[:2]) > 0,
        "crop_pct": sizes is None or sizes[2] is None or sizes[2] >= sizes[0],
        "image_mean": _are_numbers(mean, channels),
        "image_std": _are_numbers(std, channels) and min(std or ()) > 0,
    }
    for name, is_supported in supported.items():
        if not is_supported:
            raise _unsupported(config, name)
    height, width, resize = sizes  # type: ignore[misc]
    return EvalTransform(
        height=height,
        width=width,
        resize=resize,
        interpolation=_FILTERS[config["resample"]],
        channels=channels,
        mean=tuple(map(float, mean)),  # type: ignore[arg-type]
        std=tuple(map(float, std)),  # type: ignore[arg-type]
        crop_offset="down",
    )


def _unsupported(config: Mapping[str, Any], name: str) -> UserError:
    return UserError(
        f"its preprocessor_config.json has {name}={config.get(name)!r:.200}, which is not "
        "supported: load its model.safetensors, whose transform you can set."
    )


def _sizes(config: Mapping[str, Any], kind: str) -> tuple[int, int, int | None] | None:
    """Return height and width of the input, and the shorter side before a crop, if there is one.

    None stands for settings that are not understood.
    """
    size, crop = config.get("size"), config.get("crop_size")
    crops = config.get("do_center_crop", kind in ("Bit", "CLIP"))
    if isinstance(size, int):  # as before transformers 4.25
        size = {"height": size, "width": size} if kind == "ViT" else {"shortest_edge": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    match size, crop if crops else None:
        case {"height": int(height), "width": int(width)}, None if kind == "ViT":
            return height, width, None
        case {"shortest_edge": int(side)}, None if kind == "ConvNext":
            ratio = config.get("crop_pct") or 224 / 256
            return side, side, int(side / ratio) if side < _SQUEEZES_FROM else None
        case {"shortest_edge": int(side)}, {"height": int(height), "width": int(width)}:
            if kind != "ConvNext" and height == width <= side:
                return height, width, side
    return None


def _are_numbers(values: Any, count: int) -> bool:
    is_list = isinstance(values, list | tuple) and len(values) == count
    return is_list and all(type(value) in (int, float) for value in values)
