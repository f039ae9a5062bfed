"""Heat maps beside captum's and pytorch-grad-cam's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.report.explain import METHODS, grad_cam, overlay
from tests.weights.conftest import seeded_state_dict, torch_shapes

GOLDEN = Path(__file__).parent / "golden" / "explain.npz"
TARGETS = np.array([3, 7])
OPTIONS = {
    "integrated-gradients": {"steps": 6},
    "occlusion": {"window": 20, "stride": 13},
    **{f"{name}/{layer}": {"layer": layer} for name in ("grad-cam", "grad-cam++")
       for layer in ("layer3", "layer4")},
}  # fmt: skip


def seeded_batch():
    """As in make_explain_golden.py."""
    images = np.random.RandomState(27).standard_normal((2, 48, 56, 3)) / 2
    images[0, 8:32, 8:32] += 1
    images[1, 20:44, 20:50] -= 1
    return images


def scaled(maps):
    """From 0 to 1 in each map, as pytorch-grad-cam's."""
    low, high = (reduce(maps, axis=(1, 2), keepdims=True) for reduce in (np.min, np.max))
    return (maps - low) / (1e-7 + high - low)


def ours(model, variables, images, targets, name, options):
    method = name.split("/")[0]
    found = METHODS[method](model, variables, jnp.asarray(images), jnp.asarray(targets), **options)
    maps = np.asarray(found.maps)
    return scaled(maps) if method.startswith("grad-cam") else maps


@pytest.fixture(scope="module")
def small():
    with jax.enable_x64(True):
        model = fr.ResNet((1, 1, 1, 1), "basic", num_classes=10, conv_impl="reference",
                          dtype=jnp.float64, param_dtype=jnp.float64)  # fmt: skip
        arrays = seeded_state_dict(torch_shapes(model))
        return model, fr.from_torchvision(arrays, model)


FAST = ("grad-cam/layer4",)


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS],
)
def test_maps_are_those_of_captum_and_pytorch_grad_cam(name, small):
    theirs = np.load(GOLDEN)[name]
    with jax.enable_x64(True):
        maps = ours(*small, seeded_batch(), TARGETS, name, OPTIONS[name])[:, 2::5, 2::5]
    np.testing.assert_allclose(maps, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.slow
def test_the_class_is_by_default_the_predicted_one_and_images_do_not_mix(small):
    with jax.enable_x64(True):
        images = jnp.asarray(seeded_batch())
        both = grad_cam(*small, images)
        swapped = grad_cam(*small, images[::-1], jnp.argmax(both.logits, -1)[::-1])
    np.testing.assert_allclose(both.maps, swapped.maps[::-1], atol=1e-6)
    np.testing.assert_array_equal(both.targets, np.argmax(both.logits, -1))


def test_an_unknown_layer_is_refused(small):
    with pytest.raises(ValueError, match="layer='fc' is not one of stem, layer1"):
        grad_cam(*small, jnp.zeros((1, 32, 32, 3)), layer="fc")


def test_overlays_are_red_where_hot_and_blue_where_against():
    grey = np.full((4, 4, 1), 128, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[3, 3] = 1, -1
    drawn = overlay(grey, heat)
    assert drawn.shape == (4, 4, 3) and drawn.dtype == np.uint8
    red, blue = drawn[0, 0].astype(int), drawn[3, 3].astype(int)
    assert red[0] > red[2] + 100 and blue[2] > blue[0] + 100
    assert (drawn[1, 1] == 128).all()
    hot = overlay(grey, np.maximum(heat, 0)).astype(int)
    assert hot[0, 0, 0] > hot[0, 0, 2] + 50 and hot[3, 3, 2] >= hot[3, 3, 0]
