"""What a convolution means, and what a lowering of it is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Convolution(NamedTuple):
    """One 2-D convolution, well formed: what a lowering looks at, and computes.

    Attributes:
      x: images ``[N, H, W, C]``, floating.
      kernel: ``[h, w, C / groups, F]``, of the same dtype.
      stride: of both directions.
      padding: zeros on each of the four sides.
      groups: groups of channels (``feature_group_count``).
    """

    x: jax.Array
    kernel: jax.Array
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def out_size(self) -> tuple[int, int]:
        """``(H', W')`` of the result."""
        height, width = (
            (side + 2 * self.padding - window) // self.stride + 1
            for side, window in zip(self.x.shape[1:3], self.kernel.shape[:2], strict=True)
        )
        return height, width

    @property
    def is_pointwise(self) -> bool:
        """A product of matrices: 1x1, dense, without padding."""
        return self.kernel.shape[:2] == (1, 1) and self.groups == 1 and self.padding == 0


class Epilogue(NamedTuple):
    """What follows a convolution in a net for inference: ``relu(y + bias + residual)``.

    Attributes:
      bias: ``[F]``, of the dtype of ``y``, or None.
      residual: of the shape and dtype of ``y``, or None.
      relu: whether negative numbers become zero.
    """

    bias: jax.Array | None = None
    residual: jax.Array | None = None
    relu: bool = False

    def apply(self, y: jax.Array) -> jax.Array:
        """The meaning."""
        for summand in (self.bias, self.residual):
            y = y if summand is None else y + summand
        return jax.nn.relu(y) if self.relu else y


class Lowering(NamedTuple):
    """A row of the table: one way to compute some convolutions.

    Attributes:
      name: as ``flax-resnet summary`` prints it.
      family: ``"jax"`` or ``"onednn"``: which values of ``conv_impl`` admit it.
      backend: the backend it is for, as ``jax.default_backend()`` names it.
      applies: whether it can compute a convolution and is the better way; it sees shapes and dtypes
        only (the arrays may be tracers or ``jax.ShapeDtypeStruct``).
      lower: computes it: ``[N, H', W', F]`` of the dtype of ``x``, differentiable in ``x`` and
        ``kernel``.
      lower_fused: computes it and its epilogue in one pass, differentiable too, or None; its third
        argument is what ``pack`` gave, or None.
      pack: the kernel in the layout that ``lower_fused`` prefers, or None.
    """

    name: str
    family: str
    backend: str
    applies: Callable[[Convolution], bool]
    lower: Callable[[Convolution], jax.Array]
    lower_fused: Callable[[Convolution, Epilogue, jax.Array | None], jax.Array] | None = None
    pack: Callable[[Convolution], jax.Array | None] | None = None


def reference(conv: Convolution) -> jax.Array:
    """The meaning: ``lax.conv_general_dilated``. Returns ``[N, H', W', F]``."""
    side = (conv.padding, conv.padding)
    return lax.conv_general_dilated(
        conv.x,
        conv.kernel,
        (conv.stride, conv.stride),
        (side, side),
        dimension_numbers=DIMENSIONS,
        feature_group_count=conv.groups,
    )


def match_vma(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each varying over every mapped axis (``shard_map``) that one of them varies over:
    gradient rules of our own must return gradients that vary as their operands do."""
    varying = [jax.typeof(array).mat.varying for array in arrays]
    everywhere = frozenset().union(*varying)
    return [
        lax.pcast(array, tuple(everywhere - axes), to="varying") if everywhere - axes else array
        for array, axes in zip(arrays, varying, strict=True)
    ]


def check(conv: Convolution) -> None:
    """Raises ValueError or TypeError, in one sentence, for operands that do not fit together."""
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
