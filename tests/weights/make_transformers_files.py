"""Write ``files/transformers``: small ResNets as transformers saves them, and what it computes.

Run it where torch, torchvision and transformers are installed::

    python -m tests.weights.make_transformers_files
"""

from pathlib import Path

import numpy as np
import torch

from .torchvision_import import torchvision  # noqa: F401, before transformers imports it

FOLDER = Path(__file__).parent / "files" / "transformers"
LABELS = ("cat", "dog", "eel")
CONFIGS = {
    "bottleneck": {"layer_type": "bottleneck", "hidden_sizes": [16, 32], "depths": [1, 2]},
    "bottleneck_v1": {
        "layer_type": "bottleneck",
        "hidden_sizes": [16, 32],
        "depths": [1, 1],
        "downsample_in_bottleneck": True,
    },
    "basic": {"layer_type": "basic", "hidden_sizes": [8, 12], "depths": [2, 1]},
}


def make_model(**options):
    """A ResNetForImageClassification with random batch norms."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        **options,
    )
    model = ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for array, low in ((module.weight, 0.5), (module.bias, -0.2)):
                torch.nn.init.uniform_(array, low, low + 1)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def photo():
    """Noise of uint8 ``[46, 61, 3]``: its crop of 32 from a shorter side of 36 starts at 7.5."""
    return np.random.default_rng(0).integers(0, 256, (46, 61, 3), dtype=np.uint8)


def main():
    from transformers import ConvNextImageProcessor

    processor = ConvNextImageProcessor(
        size={"shortest_edge": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = processor(photo(), return_tensors="pt")["pixel_values"]
    for name, options in CONFIGS.items():
        model = make_model(**options)
        model.save_pretrained(FOLDER / name)
        processor.save_pretrained(FOLDER / name)
        with torch.no_grad():
            logits = model(pixels).logits.numpy()
        np.savez(FOLDER / name / "expected.npz", pixels=pixels.numpy(), logits=logits)


if __name__ == "__main__":
    main()
