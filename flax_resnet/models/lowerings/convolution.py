"""A convolution, its epilogue, and the description of an algorithm that computes them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Convolution(NamedTuple):
    """Operands and options of one 2-D convolution.

    Attributes:
        x: Images ``[N, H, W, C]``, floating.
        kernel: ``[h, w, C / groups, F]``, of the same dtype.
        stride: Stride in both directions.
        padding: Number of zeros on each of the four sides.
        groups: Groups of channels (``feature_group_count``).
        dilation: Distance of the kernel's taps in both directions (``rhs_dilation``).
    """

    x: jax.Array
    kernel: jax.Array
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dilation: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        """``(H', W')`` of the result."""
        height, width = (
            (side + 2 * self.padding - self.dilation * (window - 1) - 1) // self.stride + 1
            for side, window in zip(self.x.shape[1:3], self.kernel.shape[:2], strict=True)
        )
        return height, width

    @property
    def is_pointwise(self) -> bool:
        """Whether it is 1x1, dense and without padding: a product of matrices."""
        return self.kernel.shape[:2] == (1, 1) and self.groups == 1 and self.padding == 0


class Epilogue(NamedTuple):
    """The operations after a convolution or a norm: ``relu(y + bias + residual)``.

    Attributes:
        bias: ``[F]``, of the dtype of ``y``, or None.
        residual: Summand of the shape and dtype of ``y``, or None.
        relu: Whether to apply ReLU.
    """

    bias: jax.Array | None = None
    residual: jax.Array | None = None
    relu: bool = False

    def apply(self, y: jax.Array) -> jax.Array:
        """Applies the operations to ``y`` one by one: the reference implementation."""
        for summand in (self.bias, self.residual):
            y = y if summand is None else y + summand
        return relu(y) if self.relu else y


def relu(x: jax.Array) -> jax.Array:
    """ReLU, of which NaN is NaN, in values of any shape and dtype.

    XLA on CPU fuses ``max(x, 0)`` with a sum or mean that follows (its YNN fusions, seen in jaxlib
    0.10.2 and 0.12.0.1), and that fusion makes NaN zero: a diverged network would have finite
    logits. A selection is not fused with them and costs the same. Other backends keep the maximum,
    which XLA on GPU fuses with the convolution before it.
    """
    if jax.default_backend() == "cpu":
        return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)
    return jax.nn.relu(x)


def always(conv: Convolution) -> bool:
    """True: the predicate of an algorithm without a condition."""
    return True


class Lowering(NamedTuple):
    """An algorithm that computes some convolutions: a row of the table.

    The predicates see shapes and dtypes only: arrays may be tracers or ``jax.ShapeDtypeStruct``.

    Attributes:
        name: Name of the algorithm, as ``flax-resnet summary`` prints it.
        family: ``"jax"`` or ``"onednn"``; ``table.ALLOWED_FAMILIES`` lists the families that each
            ``conv_impl`` allows.
        backend: The backend it is for, as ``jax.default_backend()`` names it.
        is_supported: Whether the algorithm can compute a convolution.
        lower: Computes it: ``[N, H', W', F]`` of the dtype of ``x``, differentiable in ``x`` and
            ``kernel``.
        is_profitable: Whether the algorithm is faster than the rows below it, where supported.
        lower_fused: Computes it and its epilogue in one pass, also differentiable, or None. Its
            third argument is the result of ``pack``, or None.
        pack: Rearranges the kernel into the layout that ``lower_fused`` prefers, or None.
    """

    name: str
    family: str
    backend: str
    is_supported: Callable[[Convolution], bool]
    lower: Callable[[Convolution], jax.Array]
    is_profitable: Callable[[Convolution], bool] = always
    lower_fused: Callable[[Convolution, Epilogue, jax.Array | None], jax.Array] | None = None
    pack: Callable[[Convolution], jax.Array] | None = None


def reference(conv: Convolution) -> jax.Array:
    """Reference implementation: ``lax.conv_general_dilated``. Returns ``[N, H', W', F]``."""
    side = (conv.padding, conv.padding)
    return lax.conv_general_dilated(
        conv.x,
        conv.kernel,
        (conv.stride, conv.stride),
        (side, side),
        rhs_dilation=(conv.dilation, conv.dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=conv.groups,
    )


def match_vma(*arrays: jax.Array) -> list[jax.Array]:
    """Makes all arrays vary over every mapped axis (``shard_map``) over which one of them varies.

    Custom gradient rules must return gradients that vary over the same axes as their operands.
    """
    varying = [varying_axes(array) for array in arrays]
    everywhere = frozenset().union(*varying)
    return [
        lax.pcast(array, tuple(everywhere - axes), to="varying") if everywhere - axes else array
        for array, axes in zip(arrays, varying, strict=True)
    ]


def varying_axes(array: jax.Array) -> frozenset[str]:
    """The mapped axes (``shard_map``) over which an array varies."""
    array_type = jax.typeof(array)
    # JAX 0.10 renamed the attribute.
    return array_type.mat.varying if hasattr(array_type, "mat") else array_type.vma


def is_static(x: jax.Array) -> bool:
    """Whether all sizes of ``x`` are known; those that ``jax.export`` calls symbolic are not."""
    return all(isinstance(size, int) for size in x.shape)


def check(conv: Convolution) -> None:
    """Checks that the operands fit together.

    Raises:
        ValueError: The shapes do not fit.
        TypeError: The dtypes differ or are not floating.
    """
    x, kernel, groups = conv.x, conv.kernel, conv.groups
    if x.ndim != 4 or kernel.ndim != 4:
        raise ValueError(
            f"a convolution takes images [N, H, W, C] and a kernel [h, w, C / groups, F], not "
            f"{x.shape} and {kernel.shape}"
        )
    if x.shape[3] != kernel.shape[2] * groups or kernel.shape[3] % groups:
        raise ValueError(
            f"{groups} groups do not fit images {x.shape} and a kernel {kernel.shape}: C must be "
            "the kernel's third size times the groups, F a multiple of the groups"
        )
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"a convolution takes images and kernel of one floating dtype, not {x.dtype} and "
            f"{kernel.dtype}"
        )
