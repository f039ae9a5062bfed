"""Convolution, batch norm and max-pool by the optional package ``flax-resnet-onednn``.

Its source is in ``native/``, and its README has measured speeds. It is imported when the first
convolution is traced.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .convolution import Convolution, Epilogue, Lowering, is_static


@cache
def import_error() -> str | None:
    """Why ``flax_resnet_onednn`` cannot be used here; None where it can."""
    try:
        import flax_resnet_onednn

        flax_resnet_onednn.onednn_version()
    except ImportError as error:
        return str(error)
    return None


def is_available() -> bool:
    """Whether ``flax_resnet_onednn`` is installed and its library loads."""
    return import_error() is None


@cache
def _has_avx2() -> bool:
    import flax_resnet_onednn

    return flax_resnet_onednn.has_avx2()


def supports_batch_norm(x: jax.Array, *dtypes: Any) -> bool:
    """Whether the package computes batch norm of ``x``: it must be float32 throughout."""
    if jax.default_backend() != "cpu" or not is_static(x) or not x.size or not is_available():
        return False
    return all(dtype == jnp.float32 for dtype in (x.dtype, *dtypes)) and _has_avx2()


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array | None:
    """As ``lowerings.max_pool``, or None where the package does not support the operands."""
    if x.dtype != jnp.float32 or jax.default_backend() != "cpu" or not is_static(x):
        return None
    if not is_available():
        return None
    import flax_resnet_onednn

    smallest = min(x.shape[1:3]) + 2 * padding
    fits = window <= min(smallest, flax_resnet_onednn.pooling.LARGEST_WINDOW)
    if not fits or 2 * padding > window or not x.size or not _has_avx2():
        return None
    return flax_resnet_onednn.max_pool(x, window, stride, padding)


def is_supported(conv: Convolution) -> bool:
    """Whether it is float32 or bfloat16, and its result not empty."""
    smallest = min(side + 2 * conv.padding for side in conv.x.shape[1:3])
    fits = smallest >= max(conv.kernel.shape[:2])
    return conv.x.dtype in (jnp.float32, jnp.bfloat16) and fits and is_available()


def lower(conv: Convolution) -> jax.Array:
    """Computes ``[N, H', W', F]`` by a custom call.

    Both gradients are custom calls too; ``vmap`` runs them one after another.
    """
    from flax_resnet_onednn import convolution

    x, kernel, stride, padding, groups, _ = conv
    return convolution(x, kernel, stride=stride, padding=padding, groups=groups)


def lower_fused(conv: Convolution, epilogue: Epilogue, packed: jax.Array | None) -> jax.Array:
    """Computes ``[N, H', W', F]``: sums, bias, residual and ReLU in one pass over the result."""
    operands = _in_fast_dtype((conv.x, conv.kernel, epilogue.bias, epilogue.residual))
    y = _fused((conv.stride, conv.padding, conv.groups, epilogue.relu), *operands, packed)
    return y.astype(conv.x.dtype)


def _in_fast_dtype(tree: Any) -> Any:
    """Converts bfloat16 arrays to float32 on a processor that does not multiply bfloat16."""
    from flax_resnet_onednn import bf16_is_fast

    if bf16_is_fast():
        return tree
    return jax.tree.map(lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32)), tree)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(options: tuple, x, kernel, bias, residual, packed) -> jax.Array:  # type: ignore[no-untyped-def]
    from flax_resnet_onednn import fused_convolution

    stride, padding, groups, relu = options
    return fused_convolution(
        x,
        kernel if packed is None else packed,
        bias,
        residual,
        relu=relu,
        stride=stride,
        padding=padding,
        groups=groups,
        packed_from=None if packed is None else kernel.shape,
    )


def _unfused(options: tuple, x, kernel, bias, residual) -> jax.Array:  # type: ignore[no-untyped-def]
    *geometry, relu = options
    return Epilogue(bias, residual, relu).apply(lower(Convolution(x, kernel, *geometry)))


def _fused_forward(options: tuple, *arrays: Any) -> Any:
    return _fused(options, *arrays), arrays


def _fused_backward(options: tuple, arrays: Any, dy: jax.Array) -> Any:
    # Recomputed: models for inference are seldom differentiated, and store nothing for it.
    *operands, packed = arrays
    gradients = jax.vjp(partial(_unfused, options), *operands)[1](dy)
    return *gradients, None if packed is None else np.zeros(packed.shape, jax.dtypes.float0)


_fused.defvjp(_fused_forward, _fused_backward)


def pack(conv: Convolution) -> jax.Array:
    """Rearranges the kernel into the layout that ``lower_fused`` computes with."""
    from flax_resnet_onednn import pack_kernel

    x, kernel, stride, padding, groups, _ = conv
    kernel = _in_fast_dtype(kernel)
    return pack_kernel(kernel, x.shape, stride=stride, padding=padding, groups=groups)


LOWERINGS = (
    Lowering("oneDNN", "onednn", "cpu", is_supported, lower, lower_fused=lower_fused, pack=pack),
)
