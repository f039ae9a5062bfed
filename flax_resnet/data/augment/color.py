"""Colours of a uint8 image ``[H, W, C]``, C 1 or 3 (R, G, B), as PIL and torchvision change them.

All but :func:`adjust_hue` follow PIL to the level: integers, or float32 rounded down where PIL
rounds down, so that a result may differ by one level where a product falls on a whole number.
An operation that looks at one value at a time is a table ``[256, C]`` uint8, see
:func:`apply_table`; policies choose among tables, which costs less than choosing among images.
"""

import jax
import jax.numpy as jnp
from jax import lax

Factor = jax.Array | float

# --- tables ------------------------------------------------------------------


def apply_table(image: jax.Array, table: jax.Array) -> jax.Array:
    """Replace every value ``v`` of channel ``c`` by ``table[v, c]``."""
    channels = image.shape[-1]
    values = image.reshape(-1, channels).astype(jnp.int32)
    table = jnp.broadcast_to(table, (256, channels))
    return jnp.take_along_axis(table, values, axis=0, mode="promise_in_bounds").reshape(image.shape)


def histogram(image: jax.Array) -> jax.Array:
    """How often each value occurs in each channel, int32 ``[256, C]``."""
    channels = image.shape[-1]
    place = image.reshape(-1, channels).astype(jnp.int32) * channels + jnp.arange(channels)
    counts = jnp.zeros(256 * channels, jnp.int32)
    return counts.at[place].add(1, mode="promise_in_bounds").reshape(256, channels)


def brightness_table(factor: Factor) -> jax.Array:
    """``[256, 1]``: each value times ``factor``."""
    return blend(jnp.zeros((), jnp.float32), _levels(), factor)


def contrast_table(image: jax.Array, factor: Factor) -> jax.Array:
    """``[256, 1]``: the distance from the image's mean grey times ``factor``."""
    return blend(mean_grey(image), _levels(), factor)


def posterize_table(bits: jax.Array | int) -> jax.Array:
    """``[256, 1]``: the highest ``bits`` of the eight stay."""
    shift = 8 - jnp.asarray(bits, jnp.int32)
    return ((_levels() >> shift) << shift).astype(jnp.uint8)


def solarize_table(threshold: Factor) -> jax.Array:
    """``[256, 1]``: values from ``threshold`` on are inverted."""
    levels = _levels()
    return jnp.where(levels < threshold, levels, 255 - levels).astype(jnp.uint8)


def autocontrast_table(counts: jax.Array) -> jax.Array:
    """``[256, C]`` from the histogram: each channel's darkest value becomes 0, its lightest 255."""
    low, high = jnp.argmax(counts > 0, axis=0), 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    reach, levels = high - low, _levels()
    stretched = jnp.clip(255 * (levels - low) // jnp.maximum(reach, 1), 0, 255)
    return jnp.where(reach > 0, stretched, levels).astype(jnp.uint8)


def equalize_table(counts: jax.Array) -> jax.Array:
    """``[256, C]`` from the histogram: each channel's values become evenly frequent."""
    highest = 255 - jnp.argmax(counts[::-1] > 0, axis=0)
    total = counts.sum(axis=0, dtype=jnp.int32)
    step = (total - jnp.take_along_axis(counts, highest[None], axis=0)[0]) // 255
    below = jnp.cumsum(counts, axis=0, dtype=jnp.int32) - counts
    spread = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, spread, _levels()).astype(jnp.uint8)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretch each channel to the whole range 0 to 255."""
    return apply_table(image, autocontrast_table(histogram(image)))


def equalize(image: jax.Array) -> jax.Array:
    """Equalise each channel's histogram."""
    return apply_table(image, equalize_table(histogram(image)))


def posterize(image: jax.Array, bits: jax.Array | int) -> jax.Array:
    """Keep the highest ``bits``, 0 to 8, of each value."""
    return apply_table(image, posterize_table(bits))


def solarize(image: jax.Array, threshold: Factor) -> jax.Array:
    """Invert the values from ``threshold`` on."""
    return apply_table(image, solarize_table(threshold))


# --- blends: factor 1 keeps the image, 0 gives the other, above 1 leads away from it -------------


def blend(other: jax.Array, image: jax.Array, factor: Factor) -> jax.Array:
    """``other + factor * (image - other)`` from 0 to 255, rounded down, as uint8."""
    other, image = other.astype(jnp.float32), image.astype(jnp.float32)
    return jnp.clip(other + factor * (image - other), 0, 255).astype(jnp.uint8)


def grey(image: jax.Array) -> jax.Array:
    """The ITU-R 601 luma, ``[H, W, 1]`` uint8, in PIL's 16-bit arithmetic."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c].astype(jnp.int32) for c in range(3))
    luma = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
    return luma.astype(jnp.uint8)[..., None]


def mean_grey(image: jax.Array) -> jax.Array:
    """The image's mean grey, int32 ``[]``, rounded to the nearest level."""
    pixels = image.shape[0] * image.shape[1]
    return (2 * grey(image).sum(dtype=jnp.int32) + pixels) // (2 * pixels)


def adjust_brightness(image: jax.Array, factor: Factor) -> jax.Array:
    """Blend with black."""
    return blend(jnp.zeros((), jnp.float32), image, factor)


def adjust_contrast(image: jax.Array, factor: Factor) -> jax.Array:
    """Blend with the image's mean grey."""
    return blend(mean_grey(image), image, factor)


def adjust_saturation(image: jax.Array, factor: Factor) -> jax.Array:
    """Blend with the grey image."""
    return blend(grey(image), image, factor)


def adjust_sharpness(image: jax.Array, factor: Factor) -> jax.Array:
    """Blend with the image smoothed by 3 x 3 weights: the centre 5, the others 1. The outermost
    pixels stay as they are."""
    height, width, channels = image.shape
    if height < 3 or width < 3:
        return image
    # Rows of width * channels numbers: neighbours lie `channels` apart, and loops run straight on.
    rows = image.reshape(height, width * channels).astype(jnp.int32)
    columns = rows[:-2] + rows[1:-1] + rows[2:]
    inner = rows[1:-1, channels:-channels]
    total = columns[:, : -2 * channels] + columns[:, channels:-channels]
    total += columns[:, 2 * channels :] + 4 * inner
    # A thirteenth is never halfway between two levels, so float32 rounds as the integers do.
    smooth = jnp.floor(total.astype(jnp.float32) / 13 + 0.5)
    sharp = blend(smooth, inner, factor)
    flat = image.reshape(height, width * channels)
    return lax.dynamic_update_slice(flat, sharp, (1, channels)).reshape(image.shape)


def adjust_hue(image: jax.Array, shift: Factor) -> jax.Array:
    """Turn the hue by ``shift`` of the whole circle, as torchvision does to tensors: through HSV in
    floating point (PIL rounds hue and saturation to 256 levels). Grey images stay."""
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
    turned = hue + 6 * shift

    def channel(offset: int) -> jax.Array:
        position = turned + offset
        position -= 6 * jnp.floor(position / 6)
        below = jnp.clip(jnp.minimum(position, 4 - position), 0, 1)
        return jnp.floor(value - chroma * below + 0.5).astype(jnp.uint8)

    return jnp.stack([channel(5), channel(3), channel(1)], axis=-1)


# --- random ------------------------------------------------------------------


def random_grey(key: jax.Array, image: jax.Array, probability: float) -> jax.Array:
    """The grey image in all channels with ``probability``, else the image."""
    return jnp.where(jax.random.bernoulli(key, probability), grey(image), image)


def color_jitter(
    key: jax.Array,
    image: jax.Array,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> jax.Array:
    """torchvision's ColorJitter: the four changes in random order.

    The factors are uniform from max(0, 1 - amount) to 1 + amount, the hue's shift from -``hue`` to
    ``hue``. Each change rounds to whole levels.
    """
    order_key, factor_key, hue_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, 4)  # brightness, contrast, saturation, hue
    amounts = jnp.array([brightness, contrast, saturation], jnp.float32)
    drawn = jax.random.uniform(factor_key, (3,), jnp.float32)
    least = jnp.maximum(1 - amounts, 0)
    factors = least + drawn * (1 + amounts - least)
    shift = jax.random.uniform(hue_key, (), jnp.float32, -hue, hue)
    hue_turn = jnp.argmax(order == 3)

    def blends(image: jax.Array, turns: range, are_due: jax.Array) -> jax.Array:
        for turn in turns:
            which = order[turn]
            other = jnp.where(which == 2, grey(image).astype(jnp.int32), mean_grey(image))
            other = jnp.where(which == 0, 0, other)
            due = are_due[turn] & (which < 3)
            image = blend(other, image, jnp.where(due, factors[jnp.minimum(which, 2)], 1))
        return image

    # The hue costs most. Every image has it once, and the blends before and after that; a blend
    # not due has factor 1, which changes nothing.
    if not hue:
        return blends(image, range(4), jnp.ones(4, bool))
    image = blends(image, range(3), jnp.arange(4) < hue_turn)
    image = adjust_hue(image, shift)
    return blends(image, range(1, 4), jnp.arange(4) > hue_turn)


def _levels() -> jax.Array:
    return jnp.arange(256, dtype=jnp.int32)[:, None]
