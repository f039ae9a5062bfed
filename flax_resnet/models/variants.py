"""The named variants: a table of ResNet options, and the families named by their depth."""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from .mnist import MnistResNet
from .resnet import ResNet

Options = dict[str, Any]


def _imagenet(stage_sizes: tuple[int, ...], block: str, **options: Any) -> Options:
    return {"stage_sizes": stage_sizes, "block": block, "num_classes": 1000} | options


def _cifar(stage_size: int, block: str, **options: Any) -> Options:
    """Three stages on 32x32 images (He et al. 2015a, section 4.2)."""
    common = {"stage_sizes": (stage_size,) * 3, "block": block, "stem": "cifar", "num_classes": 10}
    return common | {"widths": (16, 32, 64)} | options


VARIANTS: dict[str, Options] = {
    # He et al. 2015a, table 1; bottlenecks stride on the 3x3, as torchvision.
    "resnet18": _imagenet((2, 2, 2, 2), "basic"),
    "resnet34": _imagenet((3, 4, 6, 3), "basic"),
    "resnet50": _imagenet((3, 4, 6, 3), "bottleneck"),
    "resnet101": _imagenet((3, 4, 23, 3), "bottleneck"),
    "resnet152": _imagenet((3, 8, 36, 3), "bottleneck"),
    "resnet200": _imagenet((3, 24, 36, 3), "bottleneck"),  # He et al. 2016
    "plain18": _imagenet((2, 2, 2, 2), "basic", residual=False),
    "plain34": _imagenet((3, 4, 6, 3), "basic", residual=False),
    # Xie et al. 2017.
    "resnext50_32x4d": _imagenet((3, 4, 6, 3), "bottleneck", groups=32, width_per_group=4),
    "resnext101_32x8d": _imagenet((3, 4, 23, 3), "bottleneck", groups=32, width_per_group=8),
    "resnext101_64x4d": _imagenet((3, 4, 23, 3), "bottleneck", groups=64, width_per_group=4),
    "resnext29_8x64d": _cifar(3, "bottleneck", widths=(64, 128, 256), groups=8, width_per_group=64),
    "resnext29_32x4d": _cifar(3, "bottleneck", widths=(64, 128, 256), groups=32, width_per_group=4),
    # Zagoruyko & Komodakis 2016; the ImageNet ones with torchvision's names.
    "wide_resnet50_2": _imagenet((3, 4, 6, 3), "bottleneck", width_per_group=128),
    "wide_resnet101_2": _imagenet((3, 4, 23, 3), "bottleneck", width_per_group=128),
    "resnet_mnist": {"num_classes": 10},
}


def _depth_of(name: str, depth: int, per_stage: int, offset: int = 2) -> int:
    blocks, rest = divmod(depth - offset, per_stage)
    if rest or blocks < 1:
        raise ValueError(
            f"{name}: the depth of this family is {per_stage}n+{offset}, for example "
            f"{per_stage * max(blocks, 1) + offset} or {per_stage * max(blocks + 1, 2) + offset}"
        )
    return blocks


# Families: a pattern of the name, and the row it stands for.
FAMILIES: dict[str, Callable[..., Options]] = {
    r"resnet(\d+)": lambda name, depth: _cifar(_depth_of(name, depth, 6), "basic", shortcut="A"),
    r"plain(\d+)": lambda name, depth: _cifar(_depth_of(name, depth, 6), "basic", residual=False),
    r"resnet(\d+)_v2": lambda name, depth: _cifar(
        _depth_of(name, depth, 9), "bottleneck", version="v2"
    ),
    r"wrn(\d+)_(\d+)": lambda name, depth, factor: _cifar(
        _depth_of(name, depth, 6, offset=4),
        "basic",
        version="v2",
        stem_width=16,
        widths=(16 * factor, 32 * factor, 64 * factor),
    ),
}

# The members of the families that papers report.
KNOWN_MEMBERS = (
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
    *(f"plain{depth}" for depth in (20, 32, 44, 56)),
    *("resnet164_v2", "resnet1001_v2", "wrn16_8", "wrn28_10", "wrn40_4"),
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models, sorted, that match a shell ``pattern`` such as ``"resnext*"``.

    The CIFAR families take any depth: ``resnet{6n+2}``, ``plain{6n+2}``, ``resnet{9n+2}_v2``,
    ``wrn{6n+4}_{k}``; only the members that papers report are listed.
    """
    return sorted(fnmatch.filter((*VARIANTS, *KNOWN_MEMBERS), pattern))


def variant_options(name: str) -> Options:
    """The row of options that ``name`` stands for.

    Raises:
      ValueError: no model has that name; the message holds the nearest ones.
    """
    if name in VARIANTS:
        return dict(VARIANTS[name])
    for pattern, row in FAMILIES.items():
        if match := re.fullmatch(pattern, name):
            return row(name, *map(int, match.groups()))
    raise ValueError(f"there is no model {name!r}{_nearest(name, list_models())}")


def create_model(name: str, **options: Any) -> nn.Module:
    """The model of that name as a Flax Linen module.

    Args:
      name: one of :func:`list_models`, or any other depth of its CIFAR families.
      **options: any attribute of :class:`resnet.ResNet`, over the variant's own: ``num_classes``,
        ``stem``, ``dtype``, ``shortcut``, ``version``, ``stochastic_depth``, ...

    Raises:
      ValueError: unknown name, option, or value of an option; the message holds the nearest ones.
    """
    row = variant_options(name) | options
    module = MnistResNet if name == "resnet_mnist" else ResNet
    known = [field.name for field in dataclasses.fields(module) if field.name != "parent"]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{_nearest(option, known)}")
    return module(**row)


def _nearest(word: str, words: list[str]) -> str:
    begun = [other for other in words if word and other.startswith(word)]
    alike = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    nearest = list(dict.fromkeys([*begun, *alike]))[:3]
    return f"; did you mean {' or '.join(nearest)}?" if nearest else f"; known: {', '.join(words)}"
