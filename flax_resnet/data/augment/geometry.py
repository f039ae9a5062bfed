"""Padded crop, mirroring and affine warp of an image ``[H, W, C]``.

Coordinates follow PIL: x points right and y down, the centre of a pixel is at its index plus one
half, and the edges of the image are at 0 and at its width or height.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

FillMode = Literal["constant", "nearest", "reflect"]
CropFill = Literal["constant", "mirror"]
Interpolation = Literal["bilinear", "nearest"]
Level = int | tuple[int, ...]


def random_pad_crop(
    key: jax.Array,
    image: jax.Array,
    padding: int,
    fill_value: Level = 0,
    fill: CropFill = "constant",
) -> jax.Array:
    """Pad each side and crop at random to the original size.

    Args:
        key: Random key of the crop's position.
        image: ``[H, W, C]``.
        padding: Width of the padding on each side, in pixels.
        fill_value: Level of the padding, one or one per channel.
        fill: ``"constant"`` (``fill_value``), or ``"mirror"``: the image mirrored without repeating
            the edge pixel (``d c b | a b c d``), which PyTorch and NumPy call "reflect".
    """
    height, width, channels = image.shape
    shape = (height + 2 * padding, width + 2 * padding, channels)
    if fill == "mirror":
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), "reflect")
    else:
        canvas = jnp.broadcast_to(jnp.asarray(fill_value, image.dtype), shape)
        padded = lax.dynamic_update_slice(canvas, image, (padding, padding, 0))
    top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)
    # Each row is flattened, because a CPU copies a contiguous row faster than single pixels.
    rows = padded.reshape(shape[0], shape[1] * channels)
    window = lax.dynamic_slice(rows, (top, left * channels), (height, width * channels))
    return window.reshape(image.shape)


def random_flip(key: jax.Array, image: jax.Array) -> jax.Array:
    """Mirror the image left to right with probability 1/2."""
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
    """Return a random matrix for ``warp``, distributed as in Keras's ImageDataGenerator.

    Every amount is uniform: ``rotation`` and ``shear`` in degrees in both directions, ``shift`` in
    fractions of (height, width) in both directions, and for each axis a zoom factor from
    ``1 - zoom`` to ``1 + zoom``. As in Keras, a factor above 1 enlarges the visible region, so the
    content shrinks. The transforms are about the centre: the coordinates of a pixel are zoomed,
    sheared, shifted and rotated, in this order.
    """
    uniform = jax.random.uniform(key, (6,), jnp.float32, -1, 1)
    theta, shear_angle = jnp.deg2rad(rotation * uniform[0]), jnp.deg2rad(shear * uniform[1])
    move_y, move_x = shift[0] * height * uniform[2], shift[1] * width * uniform[3]
    zoom_y, zoom_x = 1 + zoom * uniform[4], 1 + zoom * uniform[5]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    # Rows are about (y, x): rotation @ shear @ zoom.
    yy, yx = cos * zoom_y, -(cos * jnp.sin(shear_angle) + sin * jnp.cos(shear_angle)) * zoom_x
    xy, xx = sin * zoom_y, (cos * jnp.cos(shear_angle) - sin * jnp.sin(shear_angle)) * zoom_x
    move_y, move_x = cos * move_y - sin * move_x, sin * move_y + cos * move_x
    return center_affine(jnp.array([[xx, xy, move_x], [yx, yy, move_y]]), height, width)


def center_affine(matrix: jax.Array, height: int, width: int) -> jax.Array:
    """Return the matrix ``[2, 3]`` that applies ``matrix`` about the centre instead of about 0."""
    centre = jnp.array([width / 2, height / 2], jnp.float32)
    # Written out, because an accelerator may compute a matrix product at lower precision.
    offset = matrix[:, 2] + centre - matrix[:, 0] * centre[0] - matrix[:, 1] * centre[1]
    return jnp.concatenate([matrix[:, :2], offset[:, None]], axis=1)


def warp(
    image: jax.Array,
    matrix: jax.Array,
    fill: FillMode = "constant",
    fill_value: Level = 0,
    interpolation: Interpolation = "bilinear",
) -> jax.Array:
    """Warp a uint8 image: pixel (x, y) of the result is pixel ``matrix @ (x, y, 1)`` of ``image``.

    Args:
        image: ``[H, W, C]``.
        matrix: float32 ``[2, 3]``, from coordinates of the result to coordinates of ``image``.
        fill: Pixels outside ``image``: "constant" (``fill_value``), "nearest" (the nearest pixel)
            or "reflect" (the image mirrored repeatedly, ``d c b a | a b c d | d c b a``). "reflect"
            repeats the edge pixel, as in SciPy and Keras; NumPy calls this "symmetric".
        fill_value: Level of the pixels outside, one or one per channel.
        interpolation: "nearest", or "bilinear", which rounds to the nearest level (PIL rounds
            down). As in PIL, bilinear interpolation less than half a pixel from the edge repeats
            the edge pixels, even if ``fill`` is "constant".
    """
    height, width, channels = image.shape
    x = jnp.arange(width, dtype=jnp.float32) + 0.5
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    from_x = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).reshape(-1)
    from_y = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).reshape(-1)
    pixels = image.reshape(height * width, channels)

    def look_up(row: jax.Array, column: jax.Array) -> jax.Array:
        index = _map_index(row, height, fill) * width + _map_index(column, width, fill)
        return pixels.at[index].get(mode="promise_in_bounds")

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
        inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
        result = jnp.where(inside[:, None], result, jnp.asarray(fill_value, image.dtype))
    return result.reshape(image.shape)


def _floor(value: jax.Array) -> jax.Array:
    return jnp.floor(value).astype(jnp.int32)


def _map_index(index: jax.Array, size: int, fill: FillMode) -> jax.Array:
    """Map an index outside of 0 to ``size - 1`` to the index of the pixel that replaces it."""
    if fill == "reflect":
        index = index % (2 * size)
        return jnp.minimum(index, 2 * size - 1 - index)
    return jnp.clip(index, 0, size - 1)
