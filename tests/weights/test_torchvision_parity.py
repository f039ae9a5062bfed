"""The ten architectures agree with real torchvision: golden values, no torch needed."""

import json

import jax
import numpy as np
import pytest

import flax_resnet as fr

from .conftest import GOLDEN, SIZES, sampled, seeded_images, seeded_state_dict, torch_shapes

SHAPES = json.loads((GOLDEN / "torchvision_shapes.json").read_text())
# The smallest is quick; the rest is slow.
MODELS = [
    name if name == "resnet18" else pytest.param(name, marks=pytest.mark.slow) for name in SHAPES
]
TOLERANCE = 2e-4  # of the largest value, in float32


def difference(ours, golden):
    """Largest absolute difference, as a share of the largest golden value."""
    return np.abs(ours - golden).max() / np.abs(golden).max()


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_features_are_torchvisions(name):
    model = fr.create_model(name)
    variables = fr.from_torchvision(seeded_state_dict(SHAPES[name]), model)
    with np.load(GOLDEN / "torchvision.npz") as golden:
        for size, (height, width) in SIZES.items():
            features = model.apply(
                variables, seeded_images(height, width), train=False, method="features"
            )
            differences = {
                stage: difference(sampled(value), golden[f"{name}/{size}/{stage}"])
                for stage, value in features.items()
            }
            assert set(differences) == {"stem", "layer1", "layer2", "layer3", "layer4", "pooled"}
            fc = jax.tree.map(np.asarray, variables["params"]["fc"])
            logits = np.asarray(features["pooled"]) @ fc["kernel"] + fc["bias"]
            if name == "resnet18":  # the head is that of all
                logits = model.apply(variables, seeded_images(height, width), train=False)
            differences["logits"] = difference(logits, golden[f"{name}/{size}/logits"])
            assert max(differences.values()) <= TOLERANCE, differences


@pytest.mark.parametrize("name", MODELS)
def test_export_has_torchvisions_names_and_shapes(name):
    shapes = torch_shapes(fr.create_model(name)).items()
    assert [(key, list(shape)) for key, shape in shapes] == list(SHAPES[name].items())  # in order
