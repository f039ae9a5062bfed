"""Normalisation, dropout and initialisers: the layers where torch and Flax differ."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .lowerings import Epilogue
from .lowerings.normalization import batch_statistics, has_own_gradient, normalize

Initializer = Callable[..., jax.Array]

# For ``jax.jit(model.init, compiler_options=...)``: the program runs once, and its hundreds of
# random draws take XLA four times as long to optimise as to compile.
QUICK_COMPILATION = {"xla_backend_optimization_level": 0}

# Convolutions: He normal over the fan out, gain sqrt(2) (He et al. 2015, as torchvision's ResNet).
conv_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# torch.nn.Linear: uniform in +-1/sqrt(fan_in), for the kernel ...
dense_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def dense_bias_init(fan_in: int) -> Initializer:
    """... and for the bias, which cannot see the fan in from its own shape."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), with torch's rules.

    Two things differ from ``flax.linen.BatchNorm``: the running variance is the unbiased one, and
    ``train`` does not demand that ``batch_stats`` be mutable (when they are not, the batch is
    normalised by its own statistics and nothing is stored).

    Statistics are computed in float32 or wider whatever ``dtype`` is.

    Attributes:
      momentum: share of the old running value kept in an update; torch's momentum 0.1 is 0.9 here.
      epsilon: added to the variance.
      axis_name: mapped axis (``shard_map``, ``pmap``) whose devices share their statistics. Under
        ``jit`` over a mesh the batch is one array and its statistics are global without this.
      groups: the batch is cut into so many equal parts of neighbouring examples, each normalised by
        its own statistics ("ghost" batch norm, Hoffer et al. 2017), on any number of devices. The
        running mean and variance take the average of the parts' means and unbiased variances; with
        ``axis_name`` and more than one part each device holds its own parts' average, and whoever
        maps averages over the devices, as ``train_step`` does.
      frozen_statistics: normalise by the running statistics, and leave them, even in training.
      frozen_affine: no gradient for ``scale`` and ``bias``.
      conv_impl: on CPU and but for ``"reference"`` the gradient is a quicker rule of its own.

    Raises:
      ValueError: ``groups`` do not divide the batch, or neither of groups and devices the other.
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

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        residual: jax.Array | None = None,
        relu: bool = False,
    ) -> jax.Array:
        """``relu(normalised x + residual)``: the residual, of the shape of ``x`` and ``dtype``, and
        the ReLU where they are asked for."""
        features = (x.shape[-1],)
        wide = jnp.promote_types(self.param_dtype, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, wide)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, wide)
        scale = self.param("scale", self.scale_init, features, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, features, self.param_dtype)
        if self.frozen_affine:
            scale, bias = lax.stop_gradient((scale, bias))

        own = train and not self.frozen_statistics and has_own_gradient(self.conv_impl)
        if train and not self.frozen_statistics:
            here, members = self._groups_here(len(x))
            average = partial(_average, axis_name=self.axis_name, members=members)
            count = math.prod(x.shape[:-1]) // here * len(members[0])
            own = own and here == 1
            if own:
                y, *statistics = normalize(
                    x,
                    scale,
                    bias,
                    self.epsilon,
                    average,
                    wide,
                    self.dtype,
                    residual,
                    relu,
                    self.conv_impl,
                )
                mean, var = (value[None] for value in statistics)
            else:
                x = x.astype(jnp.promote_types(x.dtype, wide))
                grouped = x.reshape(here, -1, *x.shape[1:])
                mean, var = batch_statistics(grouped, tuple(range(1, x.ndim)), average)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean(0)
                running_var.value = keep * running_var.value + (1 - keep) * unbiased.mean(0)
            if here > 1:  # to each example those of its group
                shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
                mean, var = (jnp.repeat(v, len(x) // here, 0).reshape(shape) for v in (mean, var))
        else:
            x = x.astype(jnp.promote_types(x.dtype, wide))
            mean, var = running_mean.value, running_var.value
        if own:
            return y
        y = (x - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return Epilogue(None, residual, relu).apply(y.astype(self.dtype))

    def _groups_here(self, examples: int) -> tuple[int, list[list[int]]]:
        """How many groups this device's examples make, and which devices share theirs."""
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


def _average(values: Any, axis_name: str | None, members: list[list[int]]) -> Any:
    """Of a tree of arrays over the devices of each group."""
    if axis_name is None or len(members[0]) == 1:
        return values
    together = None if len(members) == 1 else members
    return lax.pmean(values, axis_name, axis_index_groups=together)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018): 32 groups, or the most that divide the channels.

    Takes what :class:`BatchNorm` takes, to stand in its place; ``train`` makes no difference.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        residual: jax.Array | None = None,
        relu: bool = False,
    ) -> jax.Array:
        channels = x.shape[-1]
        groups = math.gcd(32, channels)
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        wide = wide.reshape(*x.shape[:-1], groups, channels // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean = jnp.mean(wide, axes, keepdims=True)
        var = jnp.var(wide, axes, keepdims=True)
        y = ((wide - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        y = (y * scale + bias).astype(self.dtype)
        return Epilogue(None, residual, relu).apply(y)


class FoldedNorm(nn.Module):
    """What :func:`folding.fold_batch_norm` leaves of a batch norm: nothing, as the convolution
    before it holds it, or, where another layer comes before it, its ``affine`` map of each channel.
    """

    affine: bool
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        residual: jax.Array | None = None,
        relu: bool = False,
    ) -> jax.Array:
        if self.affine:
            scale = self.param("scale", self.scale_init, (x.shape[-1],), self.param_dtype)
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
            x = (x * scale + bias).astype(self.dtype)
        return Epilogue(None, residual, relu).apply(x)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) or, with ``whole_sample``, stochastic depth (Huang et al.
    2016): every value, or a whole example, is zeroed with probability ``rate``; the rest grow by
    ``1 / (1 - rate)``.

    The mask of an example derives from the ``dropout`` key and the example's place in the global
    batch, so that one device and eight drop the same values. ``axis_name`` as in BatchNorm.
    """

    rate: float
    whole_sample: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        samples = x.shape[0]
        place = jnp.arange(samples)
        if self.axis_name is not None:
            place += samples * lax.axis_index(self.axis_name)
        shape = (1,) * (x.ndim - 1) if self.whole_sample else x.shape[1:]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), place)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, shape))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))
