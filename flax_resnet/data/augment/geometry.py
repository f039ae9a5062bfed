"""Crops, mirroring and one affine warp of an image ``[H, W, C]``.

Coordinates are PIL's: x to the right, y down, a pixel's centre at its index plus one half, the
image's edges at 0 and at its width or height.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

FillMode = Literal["constant", "nearest", "reflect"]
Interpolation = Literal["bilinear", "nearest"]
Level = int | tuple[int, ...]


def pad_crop(key: jax.Array, image: jax.Array, padding: int, fill_value: Level = 0) -> jax.Array:
    """A window of the image's size out of the image with ``padding`` pixels more on each side, of
    ``fill_value`` (of each channel, or one for all)."""
    height, width, channels = image.shape
    shape = (height + 2 * padding, width + 2 * padding, channels)
    canvas = jnp.broadcast_to(jnp.asarray(fill_value, image.dtype), shape)
    padded = lax.dynamic_update_slice(canvas, image, (padding, padding, 0))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    # As rows of numbers, which a CPU copies in one piece, and not pixel by pixel.
    rows = padded.reshape(shape[0], shape[1] * channels)
    window = lax.dynamic_slice(rows, (top, left * channels), (height, width * channels))
    return window.reshape(image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """The image, mirrored left to right with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def random_affine(
    key: jax.Array,
    height: int,
    width: int,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: float = 0.0,
    zoom: float = 0.0,
) -> jax.Array:
    """A random matrix for :func:`warp`, of Keras's ImageDataGenerator.

    Each amount is uniform: ``rotation`` and ``shear`` in degrees to both sides, ``shift`` in shares
    of the (height, width) to both sides, and for each direction a factor from 1 - ``zoom`` to
    1 + ``zoom`` that, as in Keras, is the size of what is looked at: above 1 the content shrinks.
    All is about the centre; a pixel is looked up after zoom, shear, shift and rotation, in turn.
    """
    drawn = jax.random.uniform(key, (6,), jnp.float32, -1, 1)
    turn, slant = jnp.deg2rad(rotation * drawn[0]), jnp.deg2rad(shear * drawn[1])
    move_y, move_x = shift[0] * height * drawn[2], shift[1] * width * drawn[3]
    zoom_y, zoom_x = 1 + zoom * drawn[4], 1 + zoom * drawn[5]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    # Rows are about (y, x): rotation @ shear @ zoom.
    yy, yx = cos * zoom_y, -(cos * jnp.sin(slant) + sin * jnp.cos(slant)) * zoom_x
    xy, xx = sin * zoom_y, (cos * jnp.cos(slant) - sin * jnp.sin(slant)) * zoom_x
    move_y, move_x = cos * move_y - sin * move_x, sin * move_y + cos * move_x
    return about_centre(jnp.array([[xx, xy, move_x], [yx, yy, move_y]]), height, width)


def about_centre(matrix: jax.Array, height: int, width: int) -> jax.Array:
    """The matrix ``[2, 3]`` that does about the image's centre what ``matrix`` does about 0."""
    centre = jnp.array([width / 2, height / 2], jnp.float32)
    # Written out: a matrix product may be computed at lower precision on an accelerator.
    offset = matrix[:, 2] + centre - matrix[:, 0] * centre[0] - matrix[:, 1] * centre[1]
    return jnp.concatenate([matrix[:, :2], offset[:, None]], axis=1)


def warp(
    image: jax.Array,
    matrix: jax.Array,
    fill: FillMode = "constant",
    fill_value: Level = 0,
    interpolation: Interpolation = "bilinear",
) -> jax.Array:
    """The uint8 image whose pixel at (x, y) is the one at ``matrix @ (x, y, 1)`` of ``image``.

    Args:
      matrix: float32 ``[2, 3]``, from places in the result to places in ``image``.
      fill: what lies outside ``image``: ``fill_value``; its nearest pixel; or its mirror image
        (``d c b a | a b c d | d c b a``), as often as needed.
      interpolation: bilinear rounds to the nearest level (PIL rounds down). Within half a pixel
        of the edge, and with "constant", the edge's pixels go on, as in PIL.
    """
    height, width, channels = image.shape
    x = jnp.arange(width, dtype=jnp.float32) + 0.5
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    from_x = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).reshape(-1)
    from_y = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).reshape(-1)
    pixels = image.reshape(height * width, channels)

    def look_up(row: jax.Array, column: jax.Array) -> jax.Array:
        place = _inside(row, height, fill) * width + _inside(column, width, fill)
        return pixels.at[place].get(mode="promise_in_bounds")

    if interpolation == "nearest":
        result = look_up(_floor(from_y), _floor(from_x))
    else:
        row, column = _floor(from_y - 0.5), _floor(from_x - 0.5)
        down = (from_y - 0.5 - row.astype(jnp.float32))[:, None]
        right = (from_x - 0.5 - column.astype(jnp.float32))[:, None]
        corners = [look_up(row + i, column + j) for i in (0, 1) for j in (0, 1)]
        a, b, c, d = (corner.astype(jnp.float32) for corner in corners)
        above, below = a + right * (b - a), c + right * (d - c)
        result = jnp.floor(above + down * (below - above) + 0.5).astype(image.dtype)
    if fill == "constant":
        known = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
        result = jnp.where(known[:, None], result, jnp.asarray(fill_value, image.dtype))
    return result.reshape(image.shape)


def _floor(value: jax.Array) -> jax.Array:
    return jnp.floor(value).astype(jnp.int32)


def _inside(index: jax.Array, size: int, fill: FillMode) -> jax.Array:
    if fill == "reflect":
        index = index % (2 * size)
        return jnp.minimum(index, 2 * size - 1 - index)
    return jnp.clip(index, 0, size - 1)
