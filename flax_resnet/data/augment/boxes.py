"""Random boxes ``(top, left, height, width)`` inside an image, int32 each, and their masks."""

import math

import jax
import jax.numpy as jnp

Range = tuple[float, float]
Box = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

TRIES = 10  # as in torchvision, for crops and for erasing


def random_crop_box(key: jax.Array, height: int, width: int, scale: Range, ratio: Range) -> Box:
    """Return the random crop of Szegedy et al. 2015, chosen as in torchvision.

    The area is uniform in ``scale`` (fraction of the image), and the logarithm of width / height is
    uniform over ``ratio``. The first of ten tries that fits is taken. If none fits, the box is the
    largest centred one whose width / height is within ``ratio``.
    """
    size_key, corner_key = jax.random.split(key)
    widths, heights = _random_sides(size_key, height * width, scale, ratio)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    centre = (height - box_height) // 2, (width - box_width) // 2
    tried_height, tried_width = heights[first], widths[first]
    top, left = _random_corner(corner_key, height - tried_height, width - tried_width)
    any_fits = fits.any()
    return (
        jnp.where(any_fits, top, centre[0]),
        jnp.where(any_fits, left, centre[1]),
        jnp.where(any_fits, tried_height, box_height),
        jnp.where(any_fits, tried_width, box_width),
    )


def random_erasing_box(key: jax.Array, height: int, width: int, scale: Range, ratio: Range) -> Box:
    """Return the box that random erasing (Zhong et al. 2017) fills, chosen as in torchvision.

    The area is uniform in ``scale``, and the logarithm of height / width is uniform over ``ratio``.
    The first of ten tries that is smaller than the image in both directions is taken. If none is,
    the box is empty.
    """
    size_key, corner_key = jax.random.split(key)
    heights, widths = _random_sides(size_key, height * width, scale, ratio)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    box_height = jnp.where(fits.any(), heights[first], 0)
    box_width = jnp.where(fits.any(), widths[first], 0)
    top, left = _random_corner(corner_key, height - box_height, width - box_width)
    return top, left, box_height, box_width


def box_around_random_pixel(
    key: jax.Array, height: int, width: int, box_height: jax.Array | int, box_width: jax.Array | int
) -> Box:
    """Return a box of the given size centred on a uniformly random pixel; it may reach outside."""
    row_key, column_key = jax.random.split(key)
    row = jax.random.randint(row_key, (), 0, height, jnp.int32)
    column = jax.random.randint(column_key, (), 0, width, jnp.int32)
    sides = jnp.asarray(box_height, jnp.int32), jnp.asarray(box_width, jnp.int32)
    return row - sides[0] // 2, column - sides[1] // 2, *sides


def box_mask(box: Box, height: int, width: int) -> jax.Array:
    """Return the mask of a box, bool ``[H, W, 1]``: True inside."""
    top, left, box_height, box_width = box
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (top <= rows) & (rows < top + box_height)
    in_columns = (left <= columns) & (columns < left + box_width)
    return (in_rows[:, None] & in_columns)[:, :, None]


def _random_sides(
    key: jax.Array, area: int, scale: Range, ratio: Range
) -> tuple[jax.Array, jax.Array]:
    """Return integer sides ``(a, b)`` of random boxes, ``[TRIES]`` each: before rounding,
    ``a * b / area`` is within ``scale`` and ``a / b`` within ``ratio``."""
    area_key, ratio_key = jax.random.split(key)
    shape, dtype = (TRIES,), jnp.float32
    areas = area * jax.random.uniform(area_key, shape, dtype, *scale)
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    ratios = jnp.exp(jax.random.uniform(ratio_key, shape, dtype, *log_ratio))
    first, second = jnp.sqrt(areas * ratios), jnp.sqrt(areas / ratios)
    return jnp.round(first).astype(jnp.int32), jnp.round(second).astype(jnp.int32)


def _random_corner(
    key: jax.Array, max_top: jax.Array, max_left: jax.Array
) -> tuple[jax.Array, jax.Array]:
    top_key, left_key = jax.random.split(key)
    # The bound is negative for a box that does not fit; the caller ignores its corner.
    top = jax.random.randint(top_key, (), 0, jnp.maximum(max_top, 0) + 1, jnp.int32)
    left = jax.random.randint(left_key, (), 0, jnp.maximum(max_left, 0) + 1, jnp.int32)
    return top, left
