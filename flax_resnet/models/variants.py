"""The named variants: a table of ``ResNet`` options, and families named by their depth."""

import dataclasses
import difflib
import fnmatch
import itertools
import re
from collections.abc import Callable
from typing import Any

from .resnet import ResNet
from .timm_variants import TIMM_VARIANTS, Options


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
    # A small network for 28x28 grey digits, as tutorials teach it with MNIST. Their block lacks the
    # ReLU between its two convolutions; this one is the block of He et al. with batch norm.
    "resnet_mnist": {
        "stage_sizes": (1, 1),
        "block": "basic",
        "widths": (16, 32),
        "num_classes": 10,
        "stem": "mnist",
        "downsampling": "conv_pool",
        "pooling": "flatten",
    },
    # Page 2018, "How to Train Your ResNet": a convolution, then three that max-pool, the first and
    # the last of them with a residual block. Ours averages at the end and does not scale logits.
    "resnet9": _imagenet((0, 1, 0, 1), "basic", stem="cifar", downsampling="conv_pool")
    | {"num_classes": 10},
    **TIMM_VARIANTS,
}


# The name without options of its own: all are chosen, the two of REQUIRED at least.
ANY = "resnet"
REQUIRED = ("stage_sizes", "block")


def _blocks_of(name: str, depth: int, per_stage: int, offset: int = 2) -> int:
    """Blocks in each of the three stages of a network with ``depth`` layers."""
    blocks, rest = divmod(depth - offset, per_stage)
    if rest or blocks < 1:
        depths = (per_stage * n + offset for n in itertools.count(max(blocks, 1)))
        # ImageNet's resnet26 and resnet50 are no members, though their depths would be.
        members = (d for d in depths if re.sub(r"\d+", str(d), name, count=1) not in VARIANTS)
        raise ValueError(
            f"{name}: the depth of this family is {per_stage}n+{offset}, for example "
            f"{next(members)} or {next(members)}"
        )
    return blocks


def _cifar_resnet(name: str, depth: int) -> Options:
    """``resnet{6n+2}``, with the shortcuts without parameters (He et al. 2015a, section 4.2)."""
    return _cifar(_blocks_of(name, depth, 6), "basic", shortcut="A")


def _cifar_plain(name: str, depth: int) -> Options:
    """``plain{6n+2}`` (He et al. 2015a, section 4.2)."""
    return _cifar(_blocks_of(name, depth, 6), "basic", residual=False)


def _cifar_preactivation(name: str, depth: int) -> Options:
    """``resnet{9n+2}_v2`` (He et al. 2016)."""
    return _cifar(_blocks_of(name, depth, 9), "bottleneck", version="v2")


def _wide_resnet(name: str, depth: int, factor: int) -> Options:
    """``wrn{6n+4}_{k}`` (Zagoruyko & Komodakis 2016)."""
    widths = (16 * factor, 32 * factor, 64 * factor)
    blocks = _blocks_of(name, depth, 6, offset=4)
    return _cifar(blocks, "basic", version="v2", stem_width=16, widths=widths)


# Families of any depth: a pattern of their names -> a function from the name and the numbers in it
# to the options of the model.
FAMILIES: dict[str, Callable[..., Options]] = {
    r"resnet(\d+)": _cifar_resnet,
    r"plain(\d+)": _cifar_plain,
    r"resnet(\d+)_v2": _cifar_preactivation,
    r"wrn(\d+)_(\d+)": _wide_resnet,
}

# The depths of the families that papers report.
REPORTED_DEPTHS = (
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
    *(f"plain{depth}" for depth in (20, 32, 44, 56)),
    *("resnet164_v2", "resnet1001_v2", "wrn16_8", "wrn28_10", "wrn40_4"),
)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match ``pattern``, sorted.

    The CIFAR families take any depth: ``resnet{6n+2}``, ``plain{6n+2}``, ``resnet{9n+2}_v2``,
    ``wrn{6n+4}_{k}``; only the depths that papers report are listed. ``resnet26``, ``resnet50``,
    ``resnet152`` and ``resnet200`` are ImageNet's models.

    Args:
        pattern: A shell pattern such as ``"resnext*"``.
    """
    return sorted(fnmatch.filter((*VARIANTS, *REPORTED_DEPTHS), pattern))


def variant_options(name: str) -> Options:
    """The ``ResNet`` options that ``name`` stands for.

    Raises:
        ValueError: No model has that name; the message holds the nearest names.
    """
    if name in VARIANTS:
        return dict(VARIANTS[name])
    if name == ANY:
        return {}
    for pattern, options_of in FAMILIES.items():
        if match := re.fullmatch(pattern, name):
            return options_of(name, *map(int, match.groups()))
    raise ValueError(f"there is no model {name!r}{_nearest(name, list_models())}")


def create_model(name: str, **options: Any) -> ResNet:
    """Creates the model of that name, a Flax Linen module.

    Args:
        name: One of ``list_models()``, any other depth of the CIFAR families, or ``"resnet"``,
            which needs ``stage_sizes`` and ``block``.
        **options: Attributes of ``ResNet`` that replace those of the variant: ``num_classes``,
            ``stem``, ``dtype``, ``shortcut``, ``version``, ``stochastic_depth``, ...

    Raises:
        ValueError: The name, an option or the value of an option is unknown; the message holds the
            nearest ones.
    """
    known = [field.name for field in dataclasses.fields(ResNet) if field.name != "parent"]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{_nearest(option, known)}")
    chosen = variant_options(name) | options
    if missing := [option for option in REQUIRED if option not in chosen]:
        raise ValueError(f"{name} needs {' and '.join(missing)}")
    return ResNet(**chosen)


def _nearest(word: str, words: list[str]) -> str:
    """The end of a message about an unknown ``word``: the words most like it, or all."""
    prefixed = [other for other in words if word and other.startswith(word)]
    similar = difflib.get_close_matches(word, words, n=3, cutoff=0.5)
    nearest = list(dict.fromkeys([*prefixed, *similar]))[:3]
    return f"; did you mean {' or '.join(nearest)}?" if nearest else f"; known: {', '.join(words)}"
