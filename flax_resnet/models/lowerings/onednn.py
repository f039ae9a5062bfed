"""Convolutions by oneDNN, where the optional distribution ``flax-resnet-onednn`` is installed.

It lies in ``native/``, which says what it does and how fast. Everything of it stays out of a
program until the first convolution is traced.
"""

from functools import cache

import jax
import jax.numpy as jnp

from .convolution import Convolution, Lowering


@cache
def is_available() -> bool:
    """Whether ``flax_resnet_onednn`` is installed and loads; without it nothing is said."""
    try:
        import flax_resnet_onednn

        flax_resnet_onednn.onednn_version()
    except ImportError:
        return False
    return True


def applies(conv: Convolution) -> bool:
    """float32 and bfloat16, with a result that is not empty."""
    smallest = min(side + 2 * conv.padding for side in conv.x.shape[1:3])
    fits = smallest >= max(conv.kernel.shape[:2])
    return conv.x.dtype in (jnp.float32, jnp.bfloat16) and fits and is_available()


def lower(conv: Convolution) -> jax.Array:
    """``[N, H', W', F]``; both gradients are custom calls too, under ``vmap`` one after another."""
    from flax_resnet_onednn import convolution

    x, kernel, stride, padding, groups = conv
    return convolution(x, kernel, stride=stride, padding=padding, groups=groups)


LOWERINGS = (Lowering("oneDNN", "onednn", "cpu", applies, lower),)
