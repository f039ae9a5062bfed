"""One convolution, several lowerings.

:func:`conv_general_dilated` means exactly what `jax.lax.conv_general_dilated` means and takes the
same arguments. It is made to be handed to a Flax layer:

    flax.linen.Conv(..., conv_general_dilated=conv_general_dilated)

While a program is traced it picks, from the small table `_LOWERINGS`, a way to compute that
convolution which suits the backend and the shapes. Where no row of the table applies, `lax` does
the work. Every row is differentiable by ordinary tracing, in values and both gradients.

Shapes are written [N, H, W, C] for images, [h, w, C / groups, F] for kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["conv_general_dilated"]

# lax's own notation for lhs NHWC, rhs HWIO, out NHWC: where batch (or output features), features
# (or input features) and the spatial dimensions are found.
_NHWC_HWIO = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

# How groups are merged, see `_block_diagonal`.
_BLOCK_CHANNELS = 16
_MAX_BLOCKS = 16


class _Convolution(NamedTuple):
    """The arguments of one convolution, dimension numbers made canonical."""

    lhs: jax.Array
    rhs: jax.Array
    window_strides: Sequence[int]
    padding: str | Sequence[tuple[int, int]]
    lhs_dilation: Sequence[int] | None
    rhs_dilation: Sequence[int] | None
    dimension_numbers: lax.ConvDimensionNumbers
    feature_group_count: int
    batch_group_count: int
    precision: Any
    preferred_element_type: Any
    out_sharding: Any


class _Lowering(NamedTuple):
    """A row of the table: on `backend`, where `applies`, compute by `lower`."""

    backend: str
    applies: Callable[[_Convolution], bool]
    lower: Callable[[_Convolution], jax.Array]


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, computed in the way that suits backend and shapes.

    Arguments, result and errors are those of `jax.lax.conv_general_dilated`. Results agree up to
    rounding, with one exception: where groups are merged (CPU only, see `_block_diagonal`) an
    infinity or NaN in one group also makes its neighbours in the same block NaN.

    The choice is made by `jax.default_backend()` when the call is traced. A program traced for
    another device than the default one gets right results, maybe slower.
    """
    conv = _Convolution(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        lax.conv_dimension_numbers(jnp.shape(lhs), jnp.shape(rhs), dimension_numbers),
        feature_group_count,
        batch_group_count,
        precision,
        preferred_element_type,
        out_sharding,
    )
    backend = jax.default_backend()
    for row in _LOWERINGS:
        if row.backend == backend and row.applies(conv):
            return row.lower(conv)
    return lax.conv_general_dilated(**conv._asdict())


def _is_grouped_image_convolution(conv: _Convolution) -> bool:
    """True for a well-formed grouped 2-D convolution, NHWC by HWIO, of floating-point numbers.

    What is malformed is left to `lax`, so that its error messages stay.
    """
    groups = conv.feature_group_count
    if groups <= 1 or conv.batch_group_count != 1 or conv.out_sharding is not None:
        return False
    if jnp.ndim(conv.lhs) != 4 or conv.dimension_numbers != _NHWC_HWIO:
        return False
    if jnp.size(conv.lhs) == 0 or jnp.size(conv.rhs) == 0:
        return False
    dtype = jnp.result_type(conv.lhs)
    if dtype != jnp.result_type(conv.rhs) or not jnp.issubdtype(dtype, jnp.floating):
        return False
    in_channels, (group_channels, features) = jnp.shape(conv.lhs)[3], jnp.shape(conv.rhs)[2:]
    return in_channels == group_channels * groups and features % groups == 0


def _block_diagonal(conv: _Convolution) -> jax.Array:
    """Grouped convolution as a few dense ones, each over a block of neighbouring groups.

    lhs [N, H, W, C] and rhs [h, w, C / groups, F] give [N, H', W', F]. The kernel of a block of
    `m` groups is dense, [h, w, m * C / groups, m * F / groups], and zero between different groups.

    Why: XLA:CPU sends a dense convolution and its gradients to Eigen's matrix product, but has no
    such path for a grouped one, whose weight gradient runs as a naive loop. Multiplying `m` times
    as often, mostly by zero, is far cheaper.
    """
    groups = conv.feature_group_count
    _, _, in_size, features = conv.rhs.shape
    out_size = features // groups
    merged = _groups_per_block(groups, in_size, out_size)
    blocks = [min(merged, groups - start) for start in range(0, groups, merged)]

    # `split` rather than slices: its transpose is one concatenation, not a sum of padded arrays
    # (input gradient of [8, 14, 14, 512], 32 groups: 5 ms instead of 8 ms).
    inputs = lax.split(conv.lhs, [m * in_size for m in blocks], axis=3)
    kernels = lax.split(conv.rhs, [m * out_size for m in blocks], axis=3)

    # An unrolled loop, on purpose: inside `lax.map` or `scan` XLA:CPU loses Eigen's path for the
    # gradients (weight gradient of [32, 32, 32, 128], 32 groups: 4000 ms instead of 75 ms), and
    # `vmap` would give the grouped convolution back.
    outputs = [
        conv_general_dilated(
            **conv._replace(
                lhs=block_input,
                rhs=_block_diagonal_kernel(kernel, m),
                feature_group_count=1,
            )._asdict()
        )
        for block_input, kernel, m in zip(inputs, kernels, blocks, strict=True)
    ]
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=3)


def _groups_per_block(groups: int, in_size: int, out_size: int) -> int:
    """How many groups of `in_size` input and `out_size` output channels make one block.

    Small blocks waste less arithmetic, but each block is three convolutions to compile in training
    (about 35 ms each), so their number is bounded. Milliseconds of forward + input gradient +
    weight gradient together, float32, 3x3, 32 groups, on 2 cores with AVX-512:

        channels per block        8     16     32     64    XLA's grouped, forward alone
        [32, 28, 28, 256]       265    131    223    424    186
        [128, 32, 32, 128]      415    406    668   1440    645
        [32, 14, 14, 512]         -     51     81    118     81

    XLA's grouped weight gradient comes on top: 47 s for [128, 32, 32, 128].

    One group per block still gains where a group alone is wide ([16, 32, 32, 512], 8 groups of 64:
    forward 98 ms, not 350), and no shape was found for which XLA's grouped forward is worth
    keeping: not depth-wise ([8, 28, 28, 64]: 2 ms, not 18), not one small image ([1, 7, 7, 512],
    32 groups: 0.4 ms, not 0.9).
    """
    wanted = _BLOCK_CHANNELS // max(in_size, out_size)
    fewest = -(-groups // _MAX_BLOCKS)
    return min(groups, max(1, wanted, fewest))


def _block_diagonal_kernel(kernel: jax.Array, groups: int) -> jax.Array:
    """The dense kernel of `groups` groups: [h, w, i, groups * o] to [h, w, groups * i, groups * o].

    Zeros are put in by selection, not by multiplication, so that a non-finite number in the
    gradient of an off-diagonal (unused) weight cannot reach a real one.
    """
    if groups == 1:
        return kernel
    in_size, features = kernel.shape[2:]
    group_of_input = jnp.arange(groups * in_size)[:, None] // in_size
    group_of_output = jnp.arange(features)[None, :] // (features // groups)
    everywhere = jnp.tile(kernel, (1, 1, groups, 1))
    return jnp.where(group_of_input == group_of_output, everywhere, jnp.zeros_like(everywhere))


# Tried from the top; the first row that applies is taken. No row for a backend (GPU, TPU): XLA's
# own lowering is good there.
_LOWERINGS: tuple[_Lowering, ...] = (
    _Lowering("cpu", _is_grouped_image_convolution, _block_diagonal),
)
