"""Heat maps that show which pixels decide a class: pure functions of a model and its input.

They agree with captum and pytorch-grad-cam. Each takes normalised images ``[N, H, W, C]`` and
returns ``HeatMaps``. Papers: Selvaraju et al. 2017 (Grad-CAM), Chattopadhay et al. 2018
(Grad-CAM++), Sundararajan et al. 2017 (integrated gradients), Zeiler & Fergus 2014 (occlusion).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..models import ResNet

Variables = Mapping[str, Any]

_EPSILON = 1e-6  # of pytorch-grad-cam's Grad-CAM++
_FORWARD_BATCH = 32  # images in a forward pass of occlusion


class HeatMaps(NamedTuple):
    """Heat maps of a batch of images.

    Attributes:
        maps: Float32 ``[N, H, W]`` of the size of the images, in the unit of the logits. Grad-CAM's
            are not negative; in the others a negative value speaks against the class.
        logits: Those of the images, ``[N, K]``.
        targets: The classes that the maps explain, int32 ``[N]``.
    """

    maps: jax.Array
    logits: jax.Array
    targets: jax.Array


def grad_cam(
    model: ResNet,
    variables: Variables,
    images: jax.Array,
    targets: jax.Array | None = None,
    *,
    layer: str | None = None,
) -> HeatMaps:
    """Grad-CAM: the channels of a stage, weighted by the mean gradient of the class's logit.

    It costs a forward pass and the gradient of the stages after ``layer``.

    Args:
        model: The model.
        variables: ``{"params", "batch_stats"}``.
        images: Input of the model, ``[N, H, W, C]``.
        targets: Index of the class to explain of each image, ``[N]``; by default the one with the
            largest logit.
        layer: The stage whose output is weighted, ``"stem"``, ``"layer1"``, ...; by default the
            last.

    Raises:
        ValueError: ``layer`` is not such a stage.
    """
    return _cam(model, _layer(model, layer), False, variables, images, targets)


def grad_cam_plus_plus(
    model: ResNet,
    variables: Variables,
    images: jax.Array,
    targets: jax.Array | None = None,
    *,
    layer: str | None = None,
) -> HeatMaps:
    """Grad-CAM++: as ``grad_cam``, with weights that count positive gradients only, by pixel.

    It shows several objects of the class where Grad-CAM shows one. The arguments are those of
    ``grad_cam``.
    """
    return _cam(model, _layer(model, layer), True, variables, images, targets)


def integrated_gradients(
    model: ResNet,
    variables: Variables,
    images: jax.Array,
    targets: jax.Array | None = None,
    *,
    steps: int = 50,
) -> HeatMaps:
    """Integrated gradients along the line from zeros, the mean colour, to the image.

    The sum of a map is the logit minus that of the mean colour, up to the error of the integral.

    Args:
        model, variables, images, targets: As in ``grad_cam``.
        steps: Gradients that are computed, at the nodes of Gauss and Legendre.
    """
    logits = _forward(model, variables, images)
    chosen = _targets(logits, targets)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = jnp.zeros_like(images)
    # Not `lax.scan`: in a loop XLA:CPU loses its quick convolutions.
    for node, weight in zip((1 + nodes) / 2, weights / 2, strict=True):
        gradient = _input_gradient(model, variables, images * np.float32(node), chosen)
        total += np.float32(weight) * gradient
    return HeatMaps(jnp.sum(images * total, -1).astype(jnp.float32), logits, chosen)


def occlusion(
    model: ResNet,
    variables: Variables,
    images: jax.Array,
    targets: jax.Array | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> HeatMaps:
    """Occlusion: how much the logit falls where a window of zeros, the mean colour, hides pixels.

    A pixel has the mean over the windows that hide it.

    Args:
        model, variables, images, targets: As in ``grad_cam``.
        window: Height and width of the window; by default an eighth of the shorter side.
        stride: Pixels between two windows; by default half a window.
    """
    count, height, width, _ = images.shape
    window = window or max(min(height, width) // 8, 1)
    stride = stride or max(window // 2, 1)
    logits = _forward(model, variables, images)
    chosen = _targets(logits, targets)
    corners = np.array([(y, x) for y in _starts(height, window, stride)
                        for x in _starts(width, window, stride)])  # fmt: skip
    at_once = min(len(corners), max(_FORWARD_BATCH // max(count, 1), 1))
    total, hidden = jnp.zeros((count, height, width)), jnp.zeros((height, width))
    for first in range(0, len(corners), at_once):
        chunk = corners[first : first + at_once]
        missing = at_once - len(chunk)  # one size of batch, one program: windows beyond the image
        chunk = np.concatenate([chunk, np.full((missing, 2), max(height, width), chunk.dtype)])
        sums = _occluded(model, window, variables, images, chosen, logits, chunk)
        total, hidden = total + sums[0], hidden + sums[1]
    return HeatMaps(total / hidden, logits, chosen)


Method = Callable[..., HeatMaps]

METHODS: dict[str, Method] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
}
"""The methods by name."""


def overlay(image: Any, heat_map: Any, *, opacity: float = 0.6) -> np.ndarray:
    """Draw a heat map over its image.

    A map without negative values is scaled from its least to its greatest value. In others red
    pixels speak for the class and blue ones against it; the hundredth of the values that is
    farthest from zero has the full colour.

    Args:
        image: Pixels, uint8 ``[H, W, C]`` with 1 or 3 channels.
        heat_map: The map, ``[H, W]``.
        opacity: Opacity of the hottest pixels; the others are more transparent.

    Returns:
        Pixels, uint8 ``[H, W, 3]``.
    """
    from matplotlib import colormaps  # imported where it is used: 0.2 s

    pixels = np.broadcast_to(np.asarray(image, np.float32), (*np.shape(heat_map), 3))
    heat = np.asarray(heat_map, np.float32)
    if heat.min() < 0:
        most = np.quantile(np.abs(heat), 0.99) or np.abs(heat).max()
        heat = np.clip(heat / most, -1, 1)
        colors, strength = colormaps["bwr"](heat / 2 + 0.5), np.abs(heat)
    else:
        heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-7)
        colors, strength = colormaps["turbo"](0.9 * heat), 0.35 + 0.65 * heat
    opaque = (opacity * strength)[..., None]
    mixed = (1 - opaque) * pixels + opaque * 255 * colors[..., :3]
    return np.rint(mixed).astype(np.uint8)


def _layer(model: ResNet, layer: str | None) -> str:
    known = model.stages[:-1]
    if layer is not None and layer not in known:
        raise ValueError(f"layer={layer!r} is not one of {', '.join(known)}")
    return layer or known[-1]


def _targets(logits: jax.Array, targets: jax.Array | None) -> jax.Array:
    chosen = jnp.argmax(logits, -1) if targets is None else jnp.asarray(targets)
    return chosen.astype(jnp.int32)


def _of_class(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The logit of each image's class, ``[N]``."""
    return jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]


@partial(jax.jit, static_argnums=0)
def _forward(model: ResNet, variables: Variables, images: jax.Array) -> jax.Array:
    logits: Any = model.apply(variables, images, train=False)
    return logits


@partial(jax.jit, static_argnums=(0, 1, 2))
def _cam(
    model: ResNet,
    layer: str,
    plus_plus: bool,
    variables: Variables,
    images: jax.Array,
    targets: jax.Array | None,
) -> HeatMaps:
    found: Any = model.apply(variables, images, stages=(layer,), method="features")
    activations = found[layer]

    def score(activations: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = _logits_after(model, layer, variables, activations)
        chosen = _targets(logits, targets)
        # No image influences another's logits, so that the gradient of the sum is that of each.
        return _of_class(logits, chosen).sum(), (logits, chosen)

    gradients, (logits, chosen) = jax.grad(score, has_aux=True)(activations)
    a, g = activations.astype(jnp.float32), gradients.astype(jnp.float32)
    if plus_plus:
        alpha = g**2 / (2 * g**2 + a.sum((1, 2), keepdims=True) * g**3 + _EPSILON)
        weights = (jnp.maximum(g, 0) * alpha).sum((1, 2), keepdims=True)
    else:
        weights = g.mean((1, 2), keepdims=True)
    maps = jnp.maximum((weights * a).sum(-1), 0)
    return HeatMaps(jax.image.resize(maps, images.shape[:3], "bilinear"), logits, chosen)


def _logits_after(model: ResNet, layer: str, variables: Variables, x: jax.Array) -> jax.Array:
    """The logits, computed from the output of a stage."""
    following = model.stages[model.stages.index(layer) + 1]
    if following == "fc":
        x = model.pool(x)
    logits: Any = model.clone(start_stage=following).apply(variables, x, train=False)
    return logits


@partial(jax.jit, static_argnums=0)
def _input_gradient(
    model: ResNet, variables: Variables, images: jax.Array, targets: jax.Array
) -> jax.Array:
    def score(images: jax.Array) -> jax.Array:
        return _of_class(_forward(model, variables, images), targets).sum()

    return jax.grad(score)(images)


def _starts(size: int, window: int, stride: int) -> range:
    """The first pixel of each window; the last one may reach over the edge."""
    return range(0, -(-max(size - window, 0) // stride) * stride + 1, stride)


@partial(jax.jit, static_argnums=(0, 1))
def _occluded(
    model: ResNet,
    window: int,
    variables: Variables,
    images: jax.Array,
    targets: jax.Array,
    logits: jax.Array,
    corners: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The falls of the logit by windows at ``corners [P, 2]``, summed by pixel ``[N, H, W]``, and
    the number of windows over each pixel ``[H, W]``."""
    count, height, width, channels = images.shape
    rows = jnp.arange(height)[None, :] - corners[:, :1]
    columns = jnp.arange(width)[None, :] - corners[:, 1:]
    inside = [(offsets >= 0) & (offsets < window) for offsets in (rows, columns)]
    masks = inside[0][:, :, None] & inside[1][:, None, :]  # [P, H, W]
    hidden = jnp.where(masks[:, None, :, :, None], 0, images)
    batch = hidden.reshape(-1, height, width, channels)
    scores = _of_class(_forward(model, variables, batch), jnp.tile(targets, len(corners)))
    falls = _of_class(logits, targets) - scores.reshape(-1, count)  # [P, N]
    weights = masks.astype(jnp.float32)
    return jnp.einsum("pn,phw->nhw", falls, weights, precision="highest"), weights.sum(0)
