"""The first convolution for images with another number of channels than weights were trained on."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ..errors import UserError
from ..models.layers import conv_init

ChannelsInit = Literal["adapt", "fresh"]


def kernel_channels(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the channels of the images that arrays of these torchvision names and shapes take."""
    kernel = shapes.get("conv1.weight") or shapes.get("conv1.0.weight") or ()
    return kernel[1] if len(kernel) == 4 else 3


def with_input_channels(
    variables: Mapping[str, Any],
    channels: int,
    init: ChannelsInit = "adapt",
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Return variables whose first convolution takes images of ``channels``.

    Args:
        variables: ``{"params", "batch_stats"}``; those that fit are returned as they are.
        channels: Channels of the images.
        init: ``"adapt"`` sums the kernel over its channels for one channel, and else repeats its
            channels in turn and scales them so that their sum stays, as timm's ``in_chans``.
            ``"fresh"`` draws a random kernel.
        key: PRNG key of the random kernel; by default ``jax.random.key(0)``.

    Raises:
        UserError: There is no channel, or no such ``init``.
    """
    if channels < 1:
        raise UserError(f"in_channels={channels}: images have one channel or more.", exit_code=2)
    if init not in ("adapt", "fresh"):
        raise UserError(f"in_channels_init={init!r} is neither 'adapt' nor 'fresh'.", exit_code=2)
    params = dict(variables["params"])
    name = "conv1" if "conv1" in params else "conv1_0"
    kernel = params[name]["kernel"]  # [h, w, C, F]
    held = kernel.shape[2]
    if channels == held:
        return dict(variables)
    if init == "fresh":
        shape = (*kernel.shape[:2], channels, kernel.shape[3])
        new = conv_init(jax.random.key(0) if key is None else key, shape, kernel.dtype)
    elif channels == 1:
        new = jnp.sum(kernel, axis=2, keepdims=True)
    else:
        repeated = jnp.take(kernel, jnp.arange(channels) % held, axis=2)
        new = repeated * jnp.asarray(held / channels, kernel.dtype)
    return dict(variables) | {"params": params | {name: {**params[name], "kernel": new}}}


def describe_channels(channels: int, held: int, init: ChannelsInit) -> str:
    """Return the sentence that a plan or report has on the first convolution."""
    made = f"the sum over {held} channels of the weights"
    if init == "fresh":
        made = f"random values, where the weights have {held} channels"
    elif channels > 1:
        made = f"{held} channels of the weights, repeated in turn and scaled by {held}/{channels}"
    count = "1 channel" if channels == 1 else f"{channels} channels"
    return f"The first convolution takes {count}: {made}."
