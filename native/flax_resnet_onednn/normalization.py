"""Batch normalisation's passes over images, each one custom call; their gradients are the caller's.

What is summed and what is done with the sums are calls of their own, because sums may have to be
averaged over devices in between. float32 only; images ``[..., C]``, the rest ``[C]`` unless said
otherwise. None of these is differentiable.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .library import call


class Affine(NamedTuple):
    """How a channel's values become the result: ``(x - mean) * factor + bias``."""

    mean: jax.Array
    factor: jax.Array
    bias: jax.Array


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the mean square of each channel, summed in float64."""
    channels = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    return call("flax_resnet_moments", (channels, channels))(x)


def normalize(
    x: jax.Array, affine: Affine, residual: jax.Array | None = None, *, relu: bool = False
) -> jax.Array:
    """``relu((x - mean) * factor + bias + residual)``, like ``x``."""
    rest = [] if residual is None else [residual]
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return call("flax_resnet_normalize", like_x)(x, *affine, *rest, relu=np.bool_(relu))


def gradient_sums(
    dy: jax.Array,
    x: jax.Array,
    affine: Affine,
    y: jax.Array | None = None,
    *,
    relu: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each channel the sums of ``g`` and of ``g * (x - mean)``; and the gradient that goes on.

    ``g`` is the gradient before ReLU: ``dy`` where the result was positive. That is seen from the
    result ``y``, where it is given (after a residual it must be), else from ``x``. With ``y`` the
    third is ``g``, which is the residual's gradient too; without, it is ``dy``, and
    :func:`input_gradient` is to be told of the ReLU.
    """
    channels = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    rest = [] if y is None else [y]
    more = [] if y is None else [jax.ShapeDtypeStruct(x.shape, x.dtype)]
    results = call("flax_resnet_gradient_sums", (channels, channels, *more))(
        dy, x, *affine, *rest, relu=np.bool_(relu)
    )
    total, centred_total, *found = results
    return total, centred_total, found[0] if found else dy


def input_gradient(
    g: jax.Array,
    x: jax.Array,
    affine: Affine,
    shared: jax.Array,
    slope: jax.Array,
    *,
    relu: bool = False,
) -> jax.Array:
    """``factor * (g - shared - (x - mean) * slope)``, like ``x``; with ``relu``, ``g`` counts only
    where the result, seen from ``x``, was positive."""
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    name = "flax_resnet_normalization_gradient"
    return call(name, like_x)(g, x, *affine, shared, slope, relu=np.bool_(relu))
