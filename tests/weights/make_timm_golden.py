"""Writes golden/timm.*: shapes and logits of tiny models of real timm. Needs timm.

    python -m tests.weights.make_timm_golden

Each has one or two blocks in a stage, and one is a whole architecture. The state dicts and images
are those of conftest.py.
"""

import json
from functools import partial

import numpy as np
import torch

from . import torchvision_import  # noqa: F401  # before timm, which imports torchvision
from .conftest import GOLDEN, seeded_images, seeded_state_dict


def models():
    from timm.layers import (
        BatchNormAct2d,
        BlurPool2d,
        GroupNormAct,
        StdConv2d,
        create_conv2d,
        get_attn,
    )
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet
    from timm.models.resnetv2 import ResNetV2

    V1 = {"layers": (2, 1, 1, 1), "channels": (32, 64, 64, 64), "num_classes": 10}
    V2 = {"layers": (2, 1), "channels": (128, 256), "num_classes": 10, "stem_chs": 32}
    BATCH_V2 = V2 | {"conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    DEEP = {"stem_width": 32, "stem_type": "deep"}
    D = DEEP | {"avg_down": True}
    SE, ECA = ({"block_args": {"attn_layer": name}} for name in ("se", "eca"))
    RS = {
        "block_args": {"attn_layer": lambda *args, **kw: get_attn("se")(*args, rd_ratio=0.25, **kw)}
    }

    return {
        "C": ResNet(Bottleneck, **V1 | DEEP),
        "D": ResNet(BasicBlock, **V1 | D),
        "S": ResNet(Bottleneck, **V1 | DEEP | {"stem_width": 64}),
        "T": ResNet(Bottleneck, **V1 | D | {"stem_type": "deep_tiered"}),
        "se basic": ResNet(BasicBlock, **V1 | SE),
        "se": ResNet(Bottleneck, **V1 | SE),
        "eca": ResNet(Bottleneck, **V1 | ECA),
        "blur": ResNet(Bottleneck, **V1, aa_layer=BlurPool2d),
        "blur basic": ResNet(BasicBlock, **V1, aa_layer=BlurPool2d),
        "aa": ResNet(Bottleneck, **V1 | SE | D, aa_layer=torch.nn.AvgPool2d),
        "aa basic": ResNet(BasicBlock, **V1, aa_layer=torch.nn.AvgPool2d),
        "rs": ResNet(Bottleneck, **V1 | D | RS, replace_stem_pool=True),
        "gn": ResNet(Bottleneck, **V1, norm_layer="groupnorm"),
        "v2": ResNetV2(**BATCH_V2),
        "v2 basic": ResNetV2(**BATCH_V2 | {"channels": (32, 64)}, basic=True, bottle_ratio=1.0),
        "v2 d": ResNetV2(**BATCH_V2, stem_type="deep", avg_down=True),
        "v2 t": ResNetV2(**BATCH_V2, stem_type="tiered", avg_down=True),
        "v2 d gn": ResNetV2(
            **BATCH_V2 | {"norm_layer": GroupNormAct, "stem_chs": 64},
            stem_type="deep",
            avg_down=True,
        ),
        "resnetblur18": ResNet(BasicBlock, (2, 2, 2, 2), num_classes=10, aa_layer=BlurPool2d),
        "bit": ResNetV2(**V2, stem_type="fixed", conv_layer=partial(StdConv2d, eps=1e-8)),
    }


def main():
    shapes, logits = {}, {}
    for name, model in models().items():
        shapes[name] = {key: list(value.shape) for key, value in model.state_dict().items()}
        state_dict = seeded_state_dict(shapes[name])
        model.load_state_dict({key: torch.from_numpy(value) for key, value in state_dict.items()})
        images = torch.from_numpy(seeded_images(64, 96).transpose(0, 3, 1, 2))
        with torch.no_grad():
            logits[name] = model.eval()(images).numpy()
        print(name, logits[name].shape, f"max {np.abs(logits[name]).max():.3g}")
    lines = [f'"{name}": {json.dumps(table)}' for name, table in shapes.items()]
    (GOLDEN / "timm_shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(GOLDEN / "timm.npz", **logits)


if __name__ == "__main__":
    main()
