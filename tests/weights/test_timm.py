"""Each feature of timm's ResNets agrees with real timm: golden values of tiny models."""

import json

import jax
import numpy as np
import pytest

import flax_resnet as fr

from .conftest import GOLDEN, seeded_images, seeded_state_dict

SHAPES = json.loads((GOLDEN / "timm_shapes.json").read_text())
TINY = {"num_classes": 10, "stem_width": 64}
V1 = TINY | {"stage_sizes": (2, 1, 1, 1), "widths": (32, 64, 64, 64)}
V2 = TINY | {"stage_sizes": (2, 1), "widths": (32, 64)}
# By the name in make_timm_golden.py: a model with these features, cut as short as timm's.
MODELS = {
    "C": ("resnet50c", {}),
    "D": ("resnet34d", {}),
    "S": ("resnet50s", {"stem_width": 128}),
    "T": ("resnet50t", {}),
    "se basic": ("seresnet34", {}),
    "se": ("seresnet50", {}),
    "eca": ("ecaresnet50d", {"stem": "imagenet", "avg_pool_shortcut": False}),
    "blur": ("resnetblur50", {}),
    "blur basic": ("resnetblur18", {}),
    "aa": ("seresnetaa50d", {}),
    "aa basic": ("resnetaa34d", {"stem": "imagenet", "avg_pool_shortcut": False}),
    "rs": ("resnetrs50", {}),
    "gn": ("resnet50_gn", {}),
    "v2": ("resnetv2_50", {"stem_width": 32}),
    "v2 basic": ("resnetv2_34", {"stem_width": 32}),
    "v2 d": ("resnetv2_50d", {"stem_width": 32}),
    "v2 t": ("resnetv2_50t", {"stem_width": 32}),
    "v2 d gn": ("resnetv2_50d_gn", {}),
    "bit": ("resnetv2_50x1_bit", {"stem_width": 32}),
}


def tiny(name):
    variant, options = MODELS[name]
    return fr.create_model(variant, **(V2 if "v2" in variant else V1) | options)


QUICK = ("eca", "blur", "aa", "rs", "gn", "v2", "bit")  # one of each kind


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in MODELS]
)
def test_logits_are_timms(name):
    model = tiny(name)
    variables = fr.from_torchvision(seeded_state_dict(SHAPES[name]), model)
    logits = jax.jit(lambda x: model.apply(variables, x, train=False))(seeded_images(64, 96))
    with np.load(GOLDEN / "timm.npz") as golden:
        expected = golden[name]
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", MODELS)
def test_the_way_back_is_bit_equal(name):
    state_dict = seeded_state_dict(SHAPES[name])
    model = tiny(name)
    again = fr.to_timm(fr.from_torchvision(state_dict, model), model)
    assert {name: array.shape for name, array in again.items()} == {
        name: array.shape for name, array in state_dict.items()
    }
    for key, array in again.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, state_dict[key], strict=True)
