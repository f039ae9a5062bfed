"""Writes golden/: shapes, logits and features of real torchvision models. Needs torchvision.

    python tests/weights/make_golden.py

The state dicts and images are those of conftest.py. The versions stand in golden/versions.json.
"""

import json

import numpy as np
import torch
from conftest import GOLDEN, SIZES, sampled, seeded_images, seeded_state_dict
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision_import import torchvision

MODELS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
NODES = {
    **{"maxpool": "stem", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3"},
    **{"layer4": "layer4", "flatten": "pooled", "fc": "logits"},
}


def main():
    shapes, arrays = {}, {}
    for name in MODELS:
        model = torchvision.models.get_model(name).eval()
        shapes[name] = {key: list(value.shape) for key, value in model.state_dict().items()}
        state_dict = seeded_state_dict(shapes[name])
        model.load_state_dict({key: torch.from_numpy(value) for key, value in state_dict.items()})
        extractor = create_feature_extractor(model, NODES)
        for size, (height, width) in SIZES.items():
            images = torch.from_numpy(seeded_images(height, width).transpose(0, 3, 1, 2))
            with torch.no_grad():
                for stage, value in extractor(images).items():
                    value = value.numpy()
                    value = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
                    kept = value if stage == "logits" else sampled(value)
                    arrays[f"{name}/{size}/{stage}"] = kept
                    print(name, size, stage, value.shape, f"max {np.abs(value).max():.3g}")
    lines = [f'"{name}": {json.dumps(table)}' for name, table in shapes.items()]
    (GOLDEN / "torchvision_shapes.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(GOLDEN / "torchvision.npz", **arrays)
    versions = {module.__name__: module.__version__ for module in (torch, torchvision, np)}
    (GOLDEN / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
