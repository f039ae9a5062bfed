"""Colour operations on a uint8 image ``[H, W, C]``, C 1 or 3 (RGB), as in PIL and torchvision.

All operations except ``adjust_hue`` use PIL's arithmetic: integers, or float32 rounded down where
PIL rounds down. A result differs from PIL's by at most one level, and only where a product is close
to a whole number. An operation that maps each value on its own is a lookup table ``[256, C]``
uint8, see ``apply_table``; policies choose among tables, because that costs less than choosing
among images.
"""

import jax
import jax.numpy as jnp
from jax import lax

Scalar = jax.Array | float

# --- lookup tables -----------------------------------------------------------


def apply_table(image: jax.Array, table: jax.Array) -> jax.Array:
    """Replace every value ``v`` of channel ``c`` by ``table[v, c]``."""
    channels = image.shape[-1]
    values = image.reshape(-1, channels).astype(jnp.int32)
    table = jnp.broadcast_to(table, (256, channels))
    return jnp.take_along_axis(table, values, axis=0, mode="promise_in_bounds").reshape(image.shape)


def histogram(image: jax.Array) -> jax.Array:
    """Return the histogram of each channel, int32 ``[256, C]``."""
    channels = image.shape[-1]
    index = image.reshape(-1, channels).astype(jnp.int32) * channels + jnp.arange(channels)
    counts = jnp.zeros(256 * channels, jnp.int32)
    return counts.at[index].add(1, mode="promise_in_bounds").reshape(256, channels)


def brightness_table(factor: Scalar) -> jax.Array:
    """Return the table ``[256, 1]`` that multiplies each value by ``factor``."""
    return blend(jnp.zeros((), jnp.float32), _identity_table(), factor)


def contrast_table(image: jax.Array, factor: Scalar) -> jax.Array:
    """Return the table ``[256, 1]`` that scales the distance from the mean grey by ``factor``."""
    return blend(mean_grey(image), _identity_table(), factor)


def posterize_table(bits: jax.Array | int) -> jax.Array:
    """Return the table ``[256, 1]`` that keeps the highest ``bits`` of the eight bits."""
    shift = 8 - jnp.asarray(bits, jnp.int32)
    return ((_identity_table() >> shift) << shift).astype(jnp.uint8)


def solarize_table(threshold: Scalar) -> jax.Array:
    """Return the table ``[256, 1]`` that inverts values of at least ``threshold``."""
    levels = _identity_table()
    return jnp.where(levels < threshold, levels, 255 - levels).astype(jnp.uint8)


def solarize_add_table(amount: Scalar) -> jax.Array:
    """Return the table ``[256, 1]`` that adds ``amount`` to values below 128, up to 255."""
    levels = _identity_table()
    brighter = jnp.minimum(levels + jnp.asarray(amount, jnp.int32), 255)
    return jnp.where(levels < 128, brighter, levels).astype(jnp.uint8)


def autocontrast_table(counts: jax.Array) -> jax.Array:
    """Return the table ``[256, C]`` that maps a channel's darkest value to 0, its lightest to 255.

    Args:
        counts: The image's ``histogram``.
    """
    low, high = jnp.argmax(counts > 0, axis=0), 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    span, levels = high - low, _identity_table()
    stretched = jnp.clip(255 * (levels - low) // jnp.maximum(span, 1), 0, 255)
    return jnp.where(span > 0, stretched, levels).astype(jnp.uint8)


def equalize_table(counts: jax.Array) -> jax.Array:
    """Return the table ``[256, C]`` that equalizes the histogram of each channel.

    Args:
        counts: The image's ``histogram``.
    """
    highest = 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    total = counts.sum(axis=0, dtype=jnp.int32)
    step = (total - jnp.take_along_axis(counts, highest[None], axis=0)[0]) // 255
    cumulative = jnp.cumsum(counts, axis=0, dtype=jnp.int32) - counts  # without the value's own
    equalized = jnp.minimum((step // 2 + cumulative) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, equalized, _identity_table()).astype(jnp.uint8)


# --- blends: factor 1 gives the image, 0 the other image, more than 1 extrapolates away from it ---


def blend(other: jax.Array, image: jax.Array, factor: Scalar) -> jax.Array:
    """Return ``other + factor * (image - other)``, clipped to 0..255, rounded down, as uint8."""
    other, image = other.astype(jnp.float32), image.astype(jnp.float32)
    return jnp.clip(other + factor * (image - other), 0, 255).astype(jnp.uint8)


def grey(image: jax.Array) -> jax.Array:
    """Return the ITU-R 601 luma, uint8 ``[H, W, 1]``, in PIL's 16-bit arithmetic."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c].astype(jnp.int32) for c in range(3))
    luma = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
    return luma.astype(jnp.uint8)[..., None]


def mean_grey(image: jax.Array) -> jax.Array:
    """Return the mean of the grey image, int32 ``[]``, rounded to the nearest level."""
    pixels = image.shape[0] * image.shape[1]
    return (2 * grey(image).sum(dtype=jnp.int32) + pixels) // (2 * pixels)


def adjust_saturation(image: jax.Array, factor: Scalar) -> jax.Array:
    """Blend with the grey image."""
    return blend(grey(image), image, factor)


def adjust_sharpness(image: jax.Array, factor: Scalar) -> jax.Array:
    """Blend with the image smoothed by 3 x 3 weights (centre 5, others 1); edge pixels stay."""
    height, width, channels = image.shape
    if height < 3 or width < 3:
        return image
    # Rows of width * channels numbers: neighbours are ``channels`` apart, and loops are contiguous.
    rows = image.reshape(height, width * channels).astype(jnp.int32)
    columns = rows[:-2] + rows[1:-1] + rows[2:]
    inner = rows[1:-1, channels:-channels]
    total = columns[:, : -2 * channels] + columns[:, channels:-channels]
    total += columns[:, 2 * channels :] + 4 * inner
    # A multiple of 1/13 is never halfway between two whole numbers, so float32 rounds correctly.
    smooth = jnp.floor(total.astype(jnp.float32) / 13 + 0.5)
    sharp = blend(smooth, inner, factor)
    flat = image.reshape(height, width * channels)
    return lax.dynamic_update_slice(flat, sharp, (1, channels)).reshape(image.shape)


def adjust_hue(image: jax.Array, shift: Scalar) -> jax.Array:
    """Rotate the hue by the fraction ``shift`` of the circle, as torchvision does with tensors.

    The computation goes through HSV in floating point (PIL rounds hue and saturation to 256
    levels). Grey images do not change.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c].astype(jnp.float32) for c in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    scale = 1 / jnp.where(chroma > 0, chroma, 1)
    hue = jnp.where(  # in sixths of the circle, from red
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    rotated_hue = hue + 6 * shift

    def channel(offset: int) -> jax.Array:
        position = rotated_hue + offset
        position -= 6 * jnp.floor(position / 6)
        chroma_fraction = jnp.clip(jnp.minimum(position, 4 - position), 0, 1)
        return jnp.floor(value - chroma * chroma_fraction + 0.5).astype(jnp.uint8)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


# --- random ------------------------------------------------------------------


def random_grey(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """Return the grey image in all channels with ``probability``, else the image."""
    return jnp.where(jax.random.bernoulli(key, jnp.float32(probability)), grey(image), image)


def color_jitter(
    key: jax.Array,
    image: jax.Array,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """Apply torchvision's ColorJitter: four changes in random order.

    The factors are uniform from max(0, 1 - amount) to 1 + amount, and the shift of the hue is
    uniform from ``-hue`` to ``hue``. Each change rounds to whole levels.
    """
    order_key, factor_key, hue_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, 4)  # brightness, contrast, saturation, hue
    amounts = jnp.array([brightness, contrast, saturation], jnp.float32)
    uniform = jax.random.uniform(factor_key, (3,), jnp.float32)
    low = jnp.maximum(1 - amounts, 0)
    factors = low + uniform * (1 + amounts - low)
    shift = jax.random.uniform(hue_key, (), jnp.float32, -hue, hue)
    hue_position = jnp.argmax(order == 3)

    def blends(image: jax.Array, positions: range, enabled: jax.Array) -> jax.Array:
        for position in positions:
            op_index = order[position]
            other = jnp.where(op_index == 2, grey(image).astype(jnp.int32), mean_grey(image))
            other = jnp.where(op_index == 0, 0, other)
            active = enabled[position] & (op_index < 3)
            image = blend(other, image, jnp.where(active, factors[jnp.minimum(op_index, 2)], 1))
        return image

    # The hue is the most expensive change, so it is computed once, between the blends before and
    # the blends after it; an inactive blend has factor 1, which changes nothing.
    if not hue:
        return blends(image, range(4), jnp.ones(4, bool))
    image = blends(image, range(3), jnp.arange(4) < hue_position)
    image = adjust_hue(image, shift)
    return blends(image, range(1, 4), jnp.arange(4) > hue_position)


def _identity_table() -> jax.Array:
    """Return the table that changes nothing, int32 ``[256, 1]``: 0 to 255."""
    return jnp.arange(256, dtype=jnp.int32)[:, None]
