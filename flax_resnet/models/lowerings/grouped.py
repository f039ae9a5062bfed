"""Grouped convolutions by block-diagonal dense ones or, on small maps, a batched matrix product.

A dense convolution computes a block of neighbouring groups. XLA:CPU sends it and its gradients to
Eigen's matrix product, but has no such path for a grouped one, whose weight gradient runs as a
naive loop. Multiplying `m` times as often, mostly by zero, is far cheaper.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .convolution import Convolution, Lowering, reference

# Bounds for merging groups, see `groups_per_block`.
BLOCK_CHANNELS = 16
MAX_BLOCKS = 16
# Pixels of a result up to which one product of all groups' patches is better: it holds h w times
# the images, but is one operation to compile. Forward and both gradients, float32, 3x3, 32 groups,
# on 2 cores with AVX2: [4, 14, 14, 512] 30 ms, not 34, and 0.9 s to compile, not 7.8 (processor
# time); [4, 7, 7, 1024] 16 ms, not 34. But [4, 28, 28, 256] 113 ms, not 33.
SMALL_MAP = 1024


def lower(conv: Convolution) -> jax.Array:
    """Convolves blocks of groups by dense block-diagonal kernels.

    Maps ``[N, H, W, C]`` and ``[h, w, C / groups, F]`` to ``[N, H', W', F]``. The kernel of a block
    of `m` groups is dense, ``[h, w, m C / groups, m F / groups]``, and zero between different
    groups.
    """
    groups = conv.groups
    in_size, features = conv.kernel.shape[2:]
    out_size = features // groups
    merged = groups_per_block(groups, in_size, out_size)
    blocks = [min(merged, groups - start) for start in range(0, groups, merged)]

    # `split` rather than slices: its transpose is one concatenation, not a sum of padded arrays
    # (input gradient of [8, 14, 14, 512], 32 groups: 5 ms instead of 8 ms).
    inputs = lax.split(conv.x, [m * in_size for m in blocks], axis=3)
    kernels = lax.split(
        block_diagonal_kernels(conv.kernel, out_size, merged),
        [m * out_size for m in blocks],
        axis=3,
    )

    # An unrolled loop, on purpose: inside `lax.map` or `scan` XLA:CPU loses Eigen's path for the
    # gradients (weight gradient of [32, 32, 32, 128], 32 groups: 4000 ms instead of 75 ms), and
    # `vmap` would give the grouped convolution back.
    outputs = [
        reference(conv._replace(x=x, kernel=kernel[:, :, : x.shape[3]], groups=1))
        for x, kernel in zip(inputs, kernels, strict=True)
    ]
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=3)


def lower_small(conv: Convolution) -> jax.Array:
    """Convolves all blocks of groups by one batched matrix product.

    The product is ``[B, N H' W', h w c] x [B, h w c, f]``, over B blocks of c input and f output
    channels each.
    """
    x, kernel, stride, padding, groups, _ = conv
    height, width, in_size, features = kernel.shape
    out_size = features // groups
    merged = math.gcd(groups, max(1, BLOCK_CHANNELS // max(in_size, out_size)))
    blocks = groups // merged
    rows, columns = conv.out_size
    pixels, depth = len(x) * rows * columns, height * width * merged * in_size
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.stack([tap.reshape(pixels, blocks, -1) for tap in taps], axis=2)
    patches = patches.reshape(pixels, blocks, depth).swapaxes(0, 1)
    dense = block_diagonal_kernels(kernel, out_size, merged).reshape(depth, blocks, -1)
    y = lax.dot_general(patches, dense.swapaxes(0, 1), (((2,), (1,)), ((0,), (0,))))
    return y.swapaxes(0, 1).reshape(len(x), rows, columns, features)


def _is_grouped(conv: Convolution) -> bool:
    return conv.groups > 1


def _is_small(conv: Convolution) -> bool:
    return 0 < conv.x.shape[0] * math.prod(conv.out_size) <= SMALL_MAP


def groups_per_block(groups: int, in_size: int, out_size: int) -> int:
    """Number of groups, of `in_size` input and `out_size` output channels, in one block.

    Small blocks waste less arithmetic, but each block is three convolutions to compile in training
    (about 70 ms of processor time each), so their number is bounded. Milliseconds of forward +
    input gradient + weight gradient together, float32, 3x3, 32 groups, on 2 cores with AVX-512:

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
    wanted = BLOCK_CHANNELS // max(in_size, out_size)
    fewest = -(-groups // MAX_BLOCKS)
    return min(groups, max(1, wanted, fewest))


def block_diagonal_kernels(kernel: jax.Array, out_size: int, merged: int) -> jax.Array:
    """Dense kernels of all blocks, concatenated: [h, w, i, F] to [h, w, merged * i, F].

    Zeros are filled in by selection, not by multiplication, so that a non-finite number in the
    gradient of an off-diagonal (unused) weight cannot reach a real one.
    """
    if merged == 1:
        return kernel
    in_size, features = kernel.shape[2:]
    group_of_input = np.arange(merged * in_size)[:, None] // in_size
    group_of_output = np.arange(features)[None, :] // out_size % merged
    everywhere = jnp.tile(kernel, (1, 1, merged, 1))
    return jnp.where(group_of_input == group_of_output, everywhere, jnp.zeros_like(everywhere))


LOWERINGS = (
    Lowering("batched matrix product", "jax", "cpu", _is_grouped, lower_small, _is_small),
    Lowering("block-diagonal convolutions", "jax", "cpu", _is_grouped, lower),
)
