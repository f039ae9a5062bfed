"""Recipes hold what their sources state, where that has to be worked out."""

import numpy as np
import pytest

from flax_resnet import check_config, list_configs, load_config


@pytest.mark.parametrize("name", list_configs())
def test_every_recipe_is_possible_and_not_far_from_what_trains(name):
    assert check_config(load_config(name)) == []


def ffcv_size(epoch, start, end, low=160, high=192):
    """The rule of ffcv-imagenet: between the ramp's ends the nearest multiple of 32."""
    if epoch <= start or epoch >= end:
        return low if epoch <= start else high
    return int(np.round(np.interp(epoch, [start, end], [low, high]) / 32)) * 32


@pytest.mark.parametrize(
    ("epochs", "ramp", "sizes"),
    [
        (16, (11, 13), load_config("resnet50_imagenet_fast").data.train_sizes),
        (88, (65, 76), ((0, 160), (71, 192))),
    ],
)
def test_sizes_are_ffcvs(epochs, ramp, sizes):
    ours = [[size for first, size in sizes if first <= epoch][-1] for epoch in range(epochs)]
    assert ours == [ffcv_size(epoch, *ramp) for epoch in range(epochs)]


def test_the_moving_average_of_v2_looks_as_far_back_as_torchvisions():
    # model_ema_decay 0.99998, every 32 steps, of 8 * 128 images, for 600 epochs.
    every_32 = 1 - (1 - 0.99998) * 8 * 128 * 32 / 600
    assert load_config("resnet50_imagenet_v2").ema_decay ** 32 == pytest.approx(every_32, rel=1e-6)
