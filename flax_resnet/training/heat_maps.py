"""Heat maps over the photos of a page: where the evidence for the predicted class is."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ..data import Preprocessing, Source
from ..models import ResNet
from ..report.explain import grad_cam, overlay
from ..report.outcomes import Outcomes
from ..report.pictures import EXTREMES, to_webp

_AT_ONCE = 8  # images of a batch


def with_heat_maps(
    model: ResNet,
    variables: Any,
    preprocess: Preprocessing,
    outcomes: Outcomes,
    images: Source,
    rows: np.ndarray,
    most: int = EXTREMES,
) -> Outcomes:
    """Return outcomes with Grad-CAM's maps over the most confident mistakes and hits.

    Args:
        model: The model that predicted the outcomes.
        variables: Its variables.
        preprocess: How pixels become its input.
        outcomes: The outcomes.
        images: Where the images are read.
        rows: Index of each outcome in ``images``, int ``[N]``.
        most: Number of mistakes, and of hits, with a map.

    Returns:
        The outcomes; unchanged for images of other than 1 or 3 channels, over which none is drawn,
        and for a model that takes kept features in place of images.
    """
    drawn = images.image_shape[-1] in (1, 3) and outcomes.pictures
    if not drawn or model.start_stage is not None:
        return outcomes
    mistakes, hits = outcomes.extremes()
    shown = [*mistakes[:most], *hits[:most]]
    predicted = outcomes.top[:, 0]  # an image alone may have another class than with its mirror

    @jax.jit
    def program(
        variables: Any, pixels: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x = preprocess(pixels)
        return grad_cam(model, variables, x, targets).maps, as_seen(pixels, x)

    found = {}
    for start in range(0, len(shown), _AT_ONCE):
        own = shown[start : start + _AT_ONCE]
        batch = np.resize(own, _AT_ONCE)  # filled up, so that one size is compiled
        pixels = images.gather(rows[batch])["image"]
        maps, photos = jax.device_get(program(variables, pixels, predicted[batch]))
        for row, heat_map, photo in zip(own, maps, photos, strict=False):
            if np.isfinite(heat_map).all():
                found[row] = to_webp(overlay(photo, heat_map))
    return dataclasses.replace(outcomes, heat_maps=found)


def as_seen(pixels: jax.Array, x: jax.Array) -> jax.Array:
    """Return stored pixels in the size in which the model sees them.

    Args:
        pixels: uint8 ``[N, H, W, C]``.
        x: The model's input that was made of them.
    """
    shape = (*x.shape[:3], pixels.shape[-1])
    return pixels if pixels.shape == shape else jax.image.resize(pixels, shape, "bilinear")
