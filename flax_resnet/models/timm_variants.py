"""timm's ResNets by timm's names: a table of ``ResNet`` options.

Those of torchvision, which timm has under the same names, are in ``variants.py``.
"""

from typing import Any

Options = dict[str, Any]

# He et al. 2019, "Bag of Tricks": deep stem; with average pool in the shortcuts; wider stem.
C: Options = {"stem": "deep"}
D: Options = C | {"avg_pool_shortcut": True}
S: Options = C | {"stem_width": 128}
T: Options = {"stem": "tiered", "avg_pool_shortcut": True}
SE: Options = {"attention": "se"}  # Hu et al. 2018
ECA: Options = {"attention": "eca"}  # Wang et al. 2020
BLUR: Options = {"anti_alias": "blur"}  # Zhang 2019
AA: Options = {"anti_alias": "mean"}
RS: Options = D | SE | {"se_reduction": 4, "stem_pool": "conv"}  # Bello et al. 2021
GN: Options = {"norm": "group"}  # Wu & He 2018
V2: Options = {"version": "v2"}  # He et al. 2016
# Kolesnikov et al. 2020, "Big Transfer".
BIT: Options = V2 | GN | {"standardized_kernels": True, "stem_pool": "zero_padded_max"}


def _basic(*stage_sizes: int, **options: Any) -> Options:
    return {"stage_sizes": stage_sizes, "block": "basic", "num_classes": 1000} | options


def _bottleneck(*stage_sizes: int, **options: Any) -> Options:
    return {"stage_sizes": stage_sizes, "block": "bottleneck", "num_classes": 1000} | options


def _resnext(*stage_sizes: int, groups: int = 32, width: int = 4, **options: Any) -> Options:
    return _bottleneck(*stage_sizes, groups=groups, width_per_group=width, **options)


def _bit(*stage_sizes: int, factor: int) -> Options:
    widths = tuple(factor * width for width in (64, 128, 256, 512))
    return _bottleneck(*stage_sizes, widths=widths, **BIT)


TIMM_VARIANTS: dict[str, Options] = {
    "resnet10t": _basic(1, 1, 1, 1, **T),
    "resnet14t": _bottleneck(1, 1, 1, 1, **T),
    "resnet18d": _basic(2, 2, 2, 2, **D),
    "resnet26": _bottleneck(2, 2, 2, 2),
    "resnet26d": _bottleneck(2, 2, 2, 2, **D),
    "resnet26t": _bottleneck(2, 2, 2, 2, **T),
    "resnet34d": _basic(3, 4, 6, 3, **D),
    "resnet50c": _bottleneck(3, 4, 6, 3, **C),
    "resnet50d": _bottleneck(3, 4, 6, 3, **D),
    "resnet50s": _bottleneck(3, 4, 6, 3, **S),
    "resnet50t": _bottleneck(3, 4, 6, 3, **T),
    "resnet50_gn": _bottleneck(3, 4, 6, 3, **GN),
    "resnet101c": _bottleneck(3, 4, 23, 3, **C),
    "resnet101d": _bottleneck(3, 4, 23, 3, **D),
    "resnet101s": _bottleneck(3, 4, 23, 3, **S),
    "resnet152c": _bottleneck(3, 8, 36, 3, **C),
    "resnet152d": _bottleneck(3, 8, 36, 3, **D),
    "resnet152s": _bottleneck(3, 8, 36, 3, **S),
    "resnet200d": _bottleneck(3, 24, 36, 3, **D),
    "resnext50d_32x4d": _resnext(3, 4, 6, 3, **D),
    "resnext101_32x4d": _resnext(3, 4, 23, 3),
    "resnext101_32x16d": _resnext(3, 4, 23, 3, width=16),  # Mahajan et al. 2018 (WSL)
    "resnext101_32x32d": _resnext(3, 4, 23, 3, width=32),
    "seresnet18": _basic(2, 2, 2, 2, **SE),
    "seresnet34": _basic(3, 4, 6, 3, **SE),
    "seresnet50": _bottleneck(3, 4, 6, 3, **SE),
    "seresnet50t": _bottleneck(3, 4, 6, 3, **T, **SE),
    "seresnet101": _bottleneck(3, 4, 23, 3, **SE),
    "seresnet152": _bottleneck(3, 8, 36, 3, **SE),
    "seresnet152d": _bottleneck(3, 8, 36, 3, **D, **SE),
    "seresnet200d": _bottleneck(3, 24, 36, 3, **D, **SE),
    "seresnet269d": _bottleneck(3, 30, 48, 8, **D, **SE),
    "seresnext26d_32x4d": _resnext(2, 2, 2, 2, **D, **SE),
    "seresnext26t_32x4d": _resnext(2, 2, 2, 2, **T, **SE),
    "seresnext50_32x4d": _resnext(3, 4, 6, 3, **SE),
    "seresnext101_32x4d": _resnext(3, 4, 23, 3, **SE),
    "seresnext101_32x8d": _resnext(3, 4, 23, 3, width=8, **SE),
    "seresnext101_64x4d": _resnext(3, 4, 23, 3, groups=64, **SE),
    "seresnext101d_32x8d": _resnext(3, 4, 23, 3, width=8, **D, **SE),
    "ecaresnet26t": _bottleneck(2, 2, 2, 2, **T, **ECA),
    "ecaresnet50d": _bottleneck(3, 4, 6, 3, **D, **ECA),
    "ecaresnet50t": _bottleneck(3, 4, 6, 3, **T, **ECA),
    "ecaresnet101d": _bottleneck(3, 4, 23, 3, **D, **ECA),
    "ecaresnet200d": _bottleneck(3, 24, 36, 3, **D, **ECA),
    "ecaresnet269d": _bottleneck(3, 30, 48, 8, **D, **ECA),
    "ecaresnetlight": _bottleneck(1, 1, 11, 3, avg_pool_shortcut=True, **ECA),
    "ecaresnext26t_32x4d": _resnext(2, 2, 2, 2, **T, **ECA),
    "ecaresnext50t_32x4d": _resnext(3, 4, 6, 3, **T, **ECA),
    "resnetblur18": _basic(2, 2, 2, 2, **BLUR),
    "resnetblur50": _bottleneck(3, 4, 6, 3, **BLUR),
    "resnetblur50d": _bottleneck(3, 4, 6, 3, **D, **BLUR),
    "resnetblur101d": _bottleneck(3, 4, 23, 3, **D, **BLUR),
    "resnetaa34d": _basic(3, 4, 6, 3, **D, **AA),
    "resnetaa50": _bottleneck(3, 4, 6, 3, **AA),
    "resnetaa50d": _bottleneck(3, 4, 6, 3, **D, **AA),
    "resnetaa101d": _bottleneck(3, 4, 23, 3, **D, **AA),
    "seresnetaa50d": _bottleneck(3, 4, 6, 3, **D, **SE, **AA),
    "seresnextaa101d_32x8d": _resnext(3, 4, 23, 3, width=8, **D, **SE, **AA),
    "seresnextaa201d_32x8d": _resnext(3, 24, 36, 4, width=8, **D, **SE, **AA, stem_width=128),
    "resnetrs50": _bottleneck(3, 4, 6, 3, **RS),
    "resnetrs101": _bottleneck(3, 4, 23, 3, **RS),
    "resnetrs152": _bottleneck(3, 8, 36, 3, **RS),
    "resnetrs200": _bottleneck(3, 24, 36, 3, **RS),
    "resnetrs270": _bottleneck(4, 29, 53, 4, **RS),
    "resnetrs350": _bottleneck(4, 36, 72, 4, **RS),
    "resnetrs420": _bottleneck(4, 44, 87, 4, **RS),
    "resnetv2_18": _basic(2, 2, 2, 2, **V2),
    "resnetv2_18d": _basic(2, 2, 2, 2, **V2, **D),
    "resnetv2_34": _basic(3, 4, 6, 3, **V2),
    "resnetv2_34d": _basic(3, 4, 6, 3, **V2, **D),
    "resnetv2_50": _bottleneck(3, 4, 6, 3, **V2),
    "resnetv2_50d": _bottleneck(3, 4, 6, 3, **V2, **D),
    "resnetv2_50t": _bottleneck(3, 4, 6, 3, **V2, **T),
    "resnetv2_50d_gn": _bottleneck(3, 4, 6, 3, **V2, **D, **GN),
    "resnetv2_101": _bottleneck(3, 4, 23, 3, **V2),
    "resnetv2_101d": _bottleneck(3, 4, 23, 3, **V2, **D),
    "resnetv2_152": _bottleneck(3, 8, 36, 3, **V2),
    "resnetv2_152d": _bottleneck(3, 8, 36, 3, **V2, **D),
    "resnetv2_50x1_bit": _bit(3, 4, 6, 3, factor=1),
    "resnetv2_50x3_bit": _bit(3, 4, 6, 3, factor=3),
    "resnetv2_101x1_bit": _bit(3, 4, 23, 3, factor=1),
    "resnetv2_101x3_bit": _bit(3, 4, 23, 3, factor=3),
    "resnetv2_152x2_bit": _bit(3, 8, 36, 3, factor=2),
    "resnetv2_152x4_bit": _bit(3, 8, 36, 3, factor=4),
}
