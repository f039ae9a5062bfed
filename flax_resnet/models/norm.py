"""Normalisation layers: batch norm by torch's rules, group norm, and folded batch norm."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .lowerings import Epilogue
from .lowerings.convolution import is_static
from .lowerings.normalization import (
    batch_statistics,
    has_custom_gradient,
    is_fused,
    normalize,
)

Initializer = Callable[..., jax.Array]


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), by torch's rules.

    Two things differ from ``flax.linen.BatchNorm``: the running variance is the unbiased one, and
    ``train`` does not require that ``batch_stats`` be mutable. When it is not, the batch is
    normalised by its own statistics and nothing is stored. Statistics are computed in float32 or
    wider, whatever ``dtype`` is.

    Attributes:
        momentum: Fraction of the old running value kept in an update; torch's 0.1 is 0.9 here.
        epsilon: Summand of the variance.
        dtype: Dtype of the result.
        param_dtype: Dtype of the parameters.
        axis_name: Mapped axis (``shard_map``, ``pmap``) whose devices share statistics. Under
            ``jit`` over a mesh the batch is one array and its statistics are global without it.
        groups: Number of equal groups of neighbouring examples, each normalised by its own
            statistics ("ghost" batch norm, Hoffer et al. 2017), on any number of devices. The
            running mean and variance take the average of the groups' means and unbiased variances.
            With ``axis_name`` and more than one group each device holds the average of its own
            groups, and the caller averages over the devices, as the training step does.
        frozen_statistics: Normalise by the running statistics and keep them, even in training.
        frozen_affine: Compute no gradient for ``scale`` and ``bias``.
        conv_impl: On CPU every value except ``"reference"`` uses a faster gradient rule.
        scale_init: Initialiser of the scale.

    Raises:
        ValueError: ``groups`` does not divide the batch, neither of groups and devices divides the
            other, or ``jax.export`` traces training for a batch of unknown size.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    axis_name: str | None = None
    groups: int = 1
    frozen_statistics: bool = False
    frozen_affine: bool = False
    conv_impl: str = "auto"
    scale_init: Initializer = nn.initializers.ones

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.fused(x, train, Epilogue())

    def is_fusible(self, x: jax.Array, train: bool) -> bool:
        """Whether ``fused`` computes its epilogue in the same pass as the normalisation."""
        updates = train and not self.frozen_statistics
        return updates and is_fused(x, self._stats_dtype, self.dtype, self.conv_impl)

    @nn.compact
    def fused(self, x: jax.Array, train: bool, epilogue: Epilogue) -> jax.Array:
        """The normalised ``x`` followed by ``epilogue``.

        Args:
            x: Values ``[N, ..., C]``.
            train: Whether to normalise by the statistics of the batch.
            epilogue: Sum and activation that follow; its residual has the dtype of the result.
        """
        features = (x.shape[-1],)
        stats_dtype = self._stats_dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, stats_dtype)
        scale = self.param("scale", self.scale_init, features, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, features, self.param_dtype)
        if self.frozen_affine:
            scale, bias = lax.stop_gradient((scale, bias))

        def affine(x: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
            y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
            return epilogue.apply(y.astype(self.dtype))

        if not train or self.frozen_statistics:
            x = x.astype(jnp.promote_types(x.dtype, stats_dtype))
            return affine(x, running_mean.value, running_var.value)

        if not is_static(x):
            raise ValueError(
                "batch norm in training counts its examples, and this batch is of unknown size: "
                "export with train=False, or for images of one shape"
            )
        groups, sharing_devices = self._groups_per_device(len(x))
        average = partial(_average, axis_name=self.axis_name, sharing_devices=sharing_devices)
        count = math.prod(x.shape[:-1]) // groups * len(sharing_devices[0])

        def update_running(mean: jax.Array, var: jax.Array) -> None:
            """Moves the running statistics towards those of the groups ``[groups, C]``."""
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                # The batch has the dtype of the computation, which may be wider.
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    moved = keep * running.value + (1 - keep) * new.mean(0)
                    running.value = moved.astype(stats_dtype)

        if groups == 1 and has_custom_gradient(self.conv_impl):
            dtypes = stats_dtype, self.dtype
            y, mean, var = normalize(
                x, scale, bias, self.epsilon, average, *dtypes, epilogue, self.conv_impl
            )
            update_running(mean[None], var[None])
            return y
        x = x.astype(jnp.promote_types(x.dtype, stats_dtype))
        grouped = x.reshape(groups, -1, *x.shape[1:])
        mean, var = batch_statistics(grouped, tuple(range(1, x.ndim)), average)
        update_running(mean, var)
        if groups > 1:  # Every example takes the statistics of its group.
            shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
            mean, var = (jnp.repeat(v, len(x) // groups, 0).reshape(shape) for v in (mean, var))
        return affine(x, mean, var)

    @property
    def _stats_dtype(self) -> Any:
        return jnp.promote_types(self.param_dtype, jnp.float32)

    def _groups_per_device(self, examples: int) -> tuple[int, list[list[int]]]:
        """The number of groups on each device, and the sets of devices that share statistics."""
        devices = 1 if self.axis_name is None else lax.axis_size(self.axis_name)
        if self.groups % devices == 0 and examples % (self.groups // devices) == 0:
            return self.groups // devices, [[device] for device in range(devices)]
        if devices % self.groups == 0:
            size = devices // self.groups
            return 1, [list(range(first, first + size)) for first in range(0, devices, size)]
        raise ValueError(
            f"batch norm in {self.groups} groups does not fit {examples * devices} examples on "
            f"{devices} devices: one of groups and devices must divide the other, and the batch"
        )


def _average(values: Any, axis_name: str | None, sharing_devices: list[list[int]]) -> Any:
    """Averages a tree of arrays over each set of devices that share statistics."""
    if axis_name is None or len(sharing_devices[0]) == 1:
        return values
    index_groups = None if len(sharing_devices) == 1 else sharing_devices
    return lax.pmean(values, axis_name, axis_index_groups=index_groups)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) in 32 groups, or in the most that divide the channels.

    Attributes:
        epsilon: Summand of the variance.
        dtype: Dtype of the result.
        param_dtype: Dtype of the parameters.
        scale_init: Initialiser of the scale.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises ``x``; ``train`` makes no difference."""
        channels = x.shape[-1]
        groups = math.gcd(32, channels)
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        values = values.reshape(*x.shape[:-1], groups, channels // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean = jnp.mean(values, axes, keepdims=True)
        var = jnp.var(values, axes, keepdims=True)
        y = ((values - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (y * scale + bias).astype(self.dtype)


class ChannelAffine(nn.Module):
    """A scale and a bias for each channel: batch norm in a folded pre-activation network.

    Attributes:
        dtype: Dtype of the result.
        param_dtype: Dtype of the parameters.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps each channel of ``x``; ``train`` makes no difference."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        return (x * scale + bias).astype(self.dtype)
