"""Batch normalisation by the batch's own statistics, with a custom gradient rule.

Automatic differentiation of the formulas makes more passes over the batch than necessary, and
XLA:CPU recomputes the coefficients of a channel for every value. The rule takes two reductions in
one pass and one pass for the result; the coefficients are computed once. Forward, backward and
ReLU, on 2 cores with AVX2, float32: [8, 56, 56, 64] 14 ms, not 23; [8, 14, 14, 1024] 4, not 8.
Where flax-resnet-onednn is installed each pass is one custom call, with the residual and the ReLU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import onednn
from .convolution import Epilogue, match_vma, relu
from .table import ALLOWED_FAMILIES

Average = Callable[[Any], Any]


def has_custom_gradient(conv_impl: str) -> bool:
    """Whether ``normalize`` is allowed by ``conv_impl`` and profitable on the default backend."""
    return "jax" in ALLOWED_FAMILIES[conv_impl] and jax.default_backend() == "cpu"


def is_fused(x: jax.Array, stats_dtype: Any, dtype: Any, conv_impl: str) -> bool:
    """Whether ``normalize`` computes its epilogue in the same pass, by a custom call."""
    allowed = "onednn" in ALLOWED_FAMILIES[conv_impl]
    return allowed and onednn.supports_batch_norm(x, stats_dtype, dtype)


def batch_statistics(
    values: jax.Array, axes: tuple[int, ...], average: Average
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over ``axes`` and, by ``average``, over devices."""
    # One pass over the data and one collective.
    return _mean_and_variance(average((jnp.mean(values, axes), jnp.mean(jnp.square(values), axes))))


def _mean_and_variance(moments: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance from the mean and the mean square."""
    mean, mean_square = moments
    # Rounding may push a zero variance below zero. Not a maximum, for the reason in ``relu``.
    return mean, relu(mean_square - jnp.square(mean))


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    average: Average,
    stats_dtype: Any,
    dtype: Any,
    epilogue: Epilogue,
    conv_impl: str = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises images by the statistics of the batch.

    Args:
        x: Images ``[N, ..., C]`` in any floating dtype.
        scale: ``[C]``.
        bias: ``[C]``.
        epsilon: Summand of the variance, which is the biased one.
        average: Averages a pair of arrays over the devices that share their statistics.
        stats_dtype: Dtype of the statistics and the arithmetic, at least.
        dtype: Dtype of the result.
        epilogue: Sum and ReLU that follow, without a bias.
        conv_impl: As in ``convolve``.

    Returns:
        The result, and the mean and variance ``[C]``, through which no gradient flows.
    """
    x, scale, bias = match_vma(x, scale, bias)
    if is_fused(x, stats_dtype, dtype, conv_impl):
        _, residual, relu = epilogue
        if residual is not None:
            x, scale, bias, residual = match_vma(x, scale, bias, residual)
        scale, bias = scale.astype(stats_dtype), bias.astype(stats_dtype)
        y, mean, var = _fused(x, scale, bias, residual, epsilon, average, relu)
    else:
        y, mean, var = _normalize(x, scale, bias, epsilon, average, stats_dtype, dtype)
        y = epilogue.apply(y)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def _normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    average: Average,
    stats_dtype: Any,
    dtype: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _forward(x, scale, bias, epsilon, average, stats_dtype, dtype)[0]


def _forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
    average: Average,
    stats_dtype: Any,
    dtype: Any,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    axes = tuple(range(x.ndim - 1))
    values = x.astype(jnp.promote_types(x.dtype, stats_dtype))
    mean, var = batch_statistics(values, axes, average)
    inverse = lax.rsqrt(var + epsilon)
    factor = lax.optimization_barrier(inverse * scale)
    y = ((values - mean) * factor + bias).astype(dtype)
    return (y, mean, var), (x, scale, bias, mean, inverse)


def _backward(
    epsilon: float,
    average: Average,
    stats_dtype: Any,
    dtype: Any,
    residuals: tuple[jax.Array, ...],
    gradients: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, bias, mean, inverse = residuals
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    values = x.astype(mean.dtype)
    gradient = gradients[0].astype(mean.dtype)
    total = jnp.sum(gradient, axes)
    centred_total = jnp.sum(gradient * (values - mean), axes)
    shared, centred_shared = average((total / count, centred_total / count))
    factor = inverse * scale
    # The components of the gradient along a constant and along the values have no effect.
    factor, slope, shared = lax.optimization_barrier(
        (factor, centred_shared * jnp.square(inverse), shared)
    )
    x_gradient = factor * (gradient - shared - (values - mean) * slope)
    scale_gradient = centred_total * inverse
    return (
        x_gradient.astype(x.dtype),
        scale_gradient.astype(scale.dtype),
        total.astype(bias.dtype),
    )


_normalize.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _fused(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    epsilon: float,
    average: Average,
    relu: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _fused_forward(x, scale, bias, residual, epsilon, average, relu)[0]


def _fused_forward(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    residual: jax.Array | None,
    epsilon: float,
    average: Average,
    relu: bool,
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[Any, ...]]:
    from flax_resnet_onednn import normalization as native

    mean, var = _mean_and_variance(average(native.moments(x)))
    inverse = lax.rsqrt(var + epsilon)
    affine = native.Affine(mean, inverse * scale, bias)
    y = native.normalize(x, affine, residual, relu=relu)
    # After a residual only the result shows where ReLU is zero.
    result = y if relu and residual is not None else None
    return (y, mean, var), (x, affine, inverse, residual is not None, result)


def _fused_backward(
    epsilon: float,
    average: Average,
    relu: bool,
    residuals: tuple[Any, ...],
    gradients: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    from flax_resnet_onednn import normalization as native

    x, affine, inverse, has_residual, y = residuals
    count = x.size // x.shape[-1]
    total, centred_total, g = native.gradient_sums(gradients[0], x, affine, y, relu=relu)
    shared, centred_shared = average((total / count, centred_total / count))
    slope = centred_shared * jnp.square(inverse)
    masks = relu and y is None  # else ``gradient_sums`` has applied the mask of ReLU
    x_gradient = native.input_gradient(g, x, affine, shared, slope, relu=masks)
    return x_gradient, centred_total * inverse, total, g if has_residual else None


_fused.defvjp(_fused_forward, _fused_backward)
