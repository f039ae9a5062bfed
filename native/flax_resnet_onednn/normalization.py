"""The passes of batch normalisation over images, each one custom call.

Reductions and elementwise passes are separate calls, because the sums may have to be averaged over
devices in between. Images are float32 ``[..., C]``, all other arrays ``[C]`` unless documented
otherwise. None of these functions is differentiable: the caller composes the gradient from them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .library import call


class Affine(NamedTuple):
    """The affine map of each channel, ``(x - mean) * factor + bias``."""

    mean: jax.Array
    factor: jax.Array
    bias: jax.Array


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the mean square of each channel, summed in float64."""
    channels = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    return call("flax_resnet_moments", (channels, channels))(x)


def normalize(
    x: jax.Array, affine: Affine, residual: jax.Array | None = None, *, relu: bool = False
) -> jax.Array:
    """Returns ``relu((x - mean) * factor + bias + residual)``, of the shape of ``x``."""
    optional = [] if residual is None else [residual]
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return call("flax_resnet_normalize", like_x)(x, *affine, *optional, relu=np.bool_(relu))


def gradient_sums(
    dy: jax.Array,
    x: jax.Array,
    affine: Affine,
    y: jax.Array | None = None,
    *,
    relu: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the two sums over the batch that the gradient of batch normalisation needs.

    Both are sums of ``g``, the gradient with respect to ReLU's input: ``dy`` where the output was
    positive, and 0 elsewhere. Without ``relu``, ``g`` is ``dy``.

    Args:
        dy: The gradient of the output, of the shape of ``x``.
        x: The input of batch normalisation.
        affine: The affine map of the forward pass.
        y: The output, from which ReLU's mask is read. If it is None the mask is recomputed from
            ``x``, which is only possible without a residual.
        relu: Whether the forward pass applied ReLU.

    Returns:
        The sums of ``g`` and of ``g * (x - mean)`` for each channel, and an array of the shape of
        ``x``: with ``y`` it is ``g``, which is also the gradient of the residual. Without ``y`` it
        is ``dy``, and ``input_gradient`` must be called with the same ``relu``.
    """
    channels = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    optional_operands = [] if y is None else [y]
    optional_results = [] if y is None else [jax.ShapeDtypeStruct(x.shape, x.dtype)]
    results = call("flax_resnet_gradient_sums", (channels, channels, *optional_results))(
        dy, x, *affine, *optional_operands, relu=np.bool_(relu)
    )
    total, centred_total, *g = results
    return total, centred_total, g[0] if g else dy


def input_gradient(
    g: jax.Array,
    x: jax.Array,
    affine: Affine,
    mean_gradient: jax.Array,
    projection: jax.Array,
    *,
    relu: bool = False,
) -> jax.Array:
    """Returns the gradient of the input of batch normalisation.

    It is ``factor * (g - mean_gradient - (x - mean) * projection)``, of the shape of ``x``.

    Args:
        g: The gradient with respect to ReLU's input or, with ``relu``, to its output.
        x: The input of batch normalisation.
        affine: The affine map of the forward pass.
        mean_gradient: The mean of ``g`` over the batch.
        projection: The mean of ``g * (x - mean)`` over the batch, divided by the variance.
        relu: Whether to mask ``g`` where the output, recomputed from ``x``, was not positive.
    """
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    gradient = call("flax_resnet_normalization_gradient", like_x)
    return gradient(g, x, *affine, mean_gradient, projection, relu=np.bool_(relu))
