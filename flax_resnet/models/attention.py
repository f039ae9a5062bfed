"""Channel attention at the end of a residual branch: a gate in [0, 1] for every channel.

Parameters carry timm's names (``layer1_0/se/fc1``, ``layer1_0/se/conv``).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Conv, ConvSpec


class SqueezeExcitation(nn.Module):
    """A gate from two dense layers on the means of all channels (Hu et al. 2018, "SENet").

    The layer between has ``1 / reduction`` of the channels, rounded to a multiple of 8, as in timm.

    Attributes:
        conv: Constructor of a 1x1 convolution with a bias.
        reduction: 16 in the paper, 4 in ResNet-RS (Bello et al. 2021).
    """

    conv: Callable[..., Conv]
    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales the channels of images ``[N, H, W, C]``."""
        channels = x.shape[-1]
        hidden = max(8, int(channels / self.reduction + 4) // 8 * 8)
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        h = self.conv(ConvSpec(hidden, 1), name="fc1")(mean, relu=True)
        return x * nn.sigmoid(self.conv(ConvSpec(channels, 1), name="fc2")(h))


class EfficientChannelAttention(nn.Module):
    """A gate from a convolution over neighbouring channels' means (Wang et al. 2020, "ECA-Net").

    Attributes:
        dtype: Dtype of the computation.
        param_dtype: Dtype of the parameters.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales the channels of images ``[N, H, W, C]``."""
        size = eca_kernel_size(x.shape[-1])
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)
        mean = jnp.mean(x, axis=(1, 2))[..., jnp.newaxis]
        y = conv(1, (size,), padding=[(size // 2, size // 2)], name="conv")(mean)
        return x * nn.sigmoid(y[:, jnp.newaxis, jnp.newaxis, :, 0])


def eca_kernel_size(channels: int) -> int:
    """The odd size that follows from the channels (Wang et al. 2020, equation 12; at least 3)."""
    size = int((math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)
