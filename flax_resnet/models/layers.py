"""Convolution, its fusion with norm and activation, dropout, and torch's initialisers.

Paddings are explicit, because "SAME" pads a strided convolution differently from torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from . import lowerings
from .lowerings import Convolution, Epilogue, convolve, convolve_fused, pack
from .norm import BatchNorm, Initializer

# For ``jax.jit(model.init, compiler_options=...)``: the program runs once, and its hundreds of
# random draws take XLA four times as long to optimise as to compile.
QUICK_COMPILATION = {"xla_backend_optimization_level": 0}

# Convolutions: He normal over the fan out, gain sqrt(2) (He et al. 2015, as torchvision's ResNet).
conv_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Kernels of torch.nn.Linear: uniform in +-1/sqrt(fan_in).
dense_init: Initializer = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def dense_bias_init(fan_in: int | None) -> Initializer:
    """Initialiser for biases of ``torch.nn.Linear``: uniform in +-1/sqrt(fan_in).

    Args:
        fan_in: Number of inputs of the layer, which the shape of a bias does not show. None, if it
            is not known, starts the bias at zero.
    """
    if fan_in is None:
        return nn.initializers.zeros
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class ConvSpec(NamedTuple):
    """Output channels, kernel size, stride, groups and dilation of one square convolution."""

    features: int
    kernel: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1


def standardize(kernel: jax.Array) -> jax.Array:
    """The kernel ``[H, W, in, out]`` with mean 0 and variance 1 over the inputs of each output.

    Weight standardisation (Qiao et al. 2019), as BiT uses it with group norm (Kolesnikov et al.
    2020); the summand of the variance is timm's for BiT.
    """
    axes = (0, 1, 2)
    mean, var = jnp.mean(kernel, axes), jnp.var(kernel, axes)
    return (kernel - mean) * jax.lax.rsqrt(var + 1e-8)


class Conv(nn.Module):
    """A square convolution, padded by ``kernel // 2 * dilation`` on every side.

    Attributes:
        spec: Shape of the convolution.
        use_bias: Whether a bias is added.
        standardized: Whether the kernel is standardised before use, see ``standardize``.
        conv_impl: How the convolution is computed, see ``lowerings.convolve``.
        dtype: Dtype of the computation.
        param_dtype: Dtype of the parameters.
        kernel_init: Initialiser of the kernel.
    """

    spec: ConvSpec
    use_bias: bool = False
    standardized: bool = False
    conv_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = conv_init

    @nn.compact
    def __call__(
        self, x: jax.Array, residual: jax.Array | None = None, relu: bool = False
    ) -> jax.Array:
        """Convolves ``x``, adds the bias and ``residual``, and applies ReLU.

        With a bias, all of it runs in one pass where the algorithm supports that. The collection
        ``packed``, if present, holds the kernel in the fastest layout, see ``pack_kernels``.

        Args:
            x: Images ``[N, H, W, C]``.
            residual: Summand of the shape of the result, or None.
            relu: Whether to apply ReLU.

        Returns:
            Images ``[N, H', W', F]``.
        """
        features, size, _, groups, _ = self.spec
        shape = (size, size, x.shape[-1] // groups, features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if self.standardized:
            kernel = standardize(kernel)
        conv = self.convolution(x, kernel)
        if not self.use_bias:
            return Epilogue(None, residual, relu).apply(convolve(conv, self.conv_impl))
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        epilogue = Epilogue(bias.astype(self.dtype), residual, relu)
        if self.is_mutable_collection("packed") and not self.is_initializing():
            packed = pack(conv, self.conv_impl)
            if packed is not None:
                self.put_variable("packed", "kernel", packed)
        packed = self.get_variable("packed", "kernel")
        return convolve_fused(conv, epilogue, packed, self.conv_impl)

    def convolution(self, x: jax.Array, kernel: jax.Array) -> Convolution:
        """The operands and options of the convolution of ``x`` by ``kernel``."""
        _, size, stride, groups, dilation = self.spec
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return Convolution(x, kernel, stride, size // 2 * dilation, groups, dilation)


@dataclass(frozen=True)
class Fusible:
    """The output of a layer, computed only when it is known which sum and activation follow.

    ``relu(y + shortcut)`` then takes one pass over memory instead of three where the native package
    has a fused kernel. Everywhere else the operations run one by one, as they are written. It is to
    be used once: a second use would compute it, and update running statistics, again.

    Attributes:
        compute: Computes the output and the epilogue that follows it.
        residual: Summand, or None.
    """

    compute: Callable[[Epilogue], jax.Array]
    residual: jax.Array | None = None

    def __add__(self, other: jax.Array) -> "Fusible":
        return Fusible(self.compute, other if self.residual is None else self.residual + other)

    __radd__ = __add__

    def value(self) -> jax.Array:
        """The output without an activation."""
        return self.compute(Epilogue(None, self.residual))

    def relu(self) -> jax.Array:
        """The output after ReLU."""
        return self.compute(Epilogue(None, self.residual, relu=True))


def relu(y: jax.Array | Fusible) -> jax.Array:
    """ReLU, fused with the layer and the sum before it where that is supported."""
    return y.relu() if isinstance(y, Fusible) else lowerings.relu(y)


def value(y: jax.Array | Fusible) -> jax.Array:
    """``y`` itself, computed where it is the output of a layer."""
    return y.value() if isinstance(y, Fusible) else y


def conv_norm(conv: Conv, norm: nn.Module | None, x: jax.Array, train: bool) -> Fusible:
    """``norm(conv(x))``, ready to be fused with what follows.

    It is a function and not a module, so that the parameter tree keeps torchvision's names.

    Args:
        conv: The convolution.
        norm: The norm; None where it is folded into the convolution, see ``fold_batch_norm``.
        x: Images ``[N, H, W, C]``.
        train: Whether the model trains.
    """
    if norm is None:
        return Fusible(lambda epilogue: conv(x, epilogue.residual, epilogue.relu))
    return normalized(norm, conv(x), train)


def normalized(norm: nn.Module, x: jax.Array, train: bool) -> Fusible:
    """``norm(x)``, ready to be fused with what follows."""

    def compute(epilogue: Epilogue) -> jax.Array:
        if isinstance(norm, BatchNorm) and norm.is_fusible(x, train):
            return norm.fused(x, train, epilogue)
        return epilogue.apply(norm(x, train))

    return Fusible(compute)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) or stochastic depth (Huang et al. 2016).

    Every value or every whole example is zeroed with probability ``rate``, and the rest is scaled
    by ``1 / (1 - rate)``. The mask of an example derives from the ``dropout`` key and the index of
    the example in the global batch, so that one device and eight drop the same values.

    Attributes:
        rate: Probability of being zeroed.
        whole_sample: Whether whole examples are dropped (stochastic depth).
        axis_name: Mapped axis over which examples are counted, as in ``BatchNorm``.
    """

    rate: float
    whole_sample: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        samples = x.shape[0]
        index = jnp.arange(samples)
        if self.axis_name is not None:
            index += samples * jax.lax.axis_index(self.axis_name)
        shape = (1,) * (x.ndim - 1) if self.whole_sample else x.shape[1:]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, shape))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))
