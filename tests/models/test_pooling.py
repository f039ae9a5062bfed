"""Max-pool against a search in NumPy: values, and gradients to the first maximum of each window."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_resnet.models import create_model
from flax_resnet.models.lowerings import max_pool


def searched(x, gradient_of, window, stride, padding):
    """Maxima of all windows, and where ``gradient_of(their shape)`` goes."""
    n, height, width, channels = x.shape
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x, sides, constant_values=-np.inf)
    rows, columns = ((size + 2 * padding - window) // stride + 1 for size in (height, width))
    values = np.empty((n, rows, columns, channels), x.dtype)
    gradient, into = gradient_of(values.shape), np.zeros(padded.shape)
    for image, row, column, channel in np.ndindex(values.shape):
        top, left = row * stride, column * stride
        tile = padded[image, top : top + window, left : left + window, channel]
        i, j = np.unravel_index(np.argmax(tile), tile.shape)
        values[image, row, column, channel] = tile[i, j]
        into[image, top + i, left + j, channel] += gradient[image, row, column, channel]
    return values, into[:, padding : padding + height, padding : padding + width]


@cache
def compiled(pool):
    """Maps conv_impl to values, values computed with a gradient, and the gradient."""

    def run(x, cotangent):
        found = {}
        for conv_impl in ("auto", "jax", "reference"):  # auto: native, where that is installed
            values, pull = jax.vjp(lambda x, conv_impl=conv_impl: max_pool(x, *pool, conv_impl), x)
            found[conv_impl] = max_pool(x, *pool, conv_impl), values, pull(cotangent)[0]
        return found

    return jax.jit(run)


# Window, stride and padding; some windows end at the image's edge and some leave a rest.
@pytest.mark.parametrize(
    ("pool", "size"),
    [
        *[((3, 2, 1), size) for size in ((4, 9, 3), (7, 6, 3), (3, 4, 37))],
        *[((2, 2, 0), (5, 8, 3)), ((3, 1, 1), (4, 7, 3)), ((3, 3, 0), (9, 8, 3))],
        *[((2, 3, 0), (8, 4, 3)), ((4, 2, 1), (9, 6, 3))],
    ],
)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(levels=st.sampled_from([2, 1000]), seed=st.integers(0, 99))
def test_values_and_gradients_equal_a_search(pool, size, levels, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-levels, levels, (2, *size)).astype(np.float32)  # few levels: many ties

    def gradient_of(shape):
        return np.random.default_rng(seed + 1).integers(-9, 9, shape).astype(np.float32)

    wanted, into = searched(x, gradient_of, *pool)
    for alone, values, gradient in compiled(pool)(x, gradient_of(wanted.shape)).values():
        np.testing.assert_array_equal(alone, wanted)
        np.testing.assert_array_equal(values, wanted)
        np.testing.assert_array_equal(gradient, into)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtypes_are_kept(dtype):
    x = jnp.ones((1, 6, 6, 2), dtype)
    gradient = jax.grad(lambda x: max_pool(x, 3, 2, 1, "jax").sum())(x)
    assert max_pool(x, 3, 2, 1, "jax").dtype == gradient.dtype == dtype


@pytest.mark.parametrize("conv_impl", ["auto", "jax"])
def test_a_nan_is_the_maximum(conv_impl):
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2, 0].set(jnp.nan)
    values, _ = jax.vjp(lambda x: max_pool(x, 2, 2, 0, conv_impl), x)
    np.testing.assert_array_equal(np.isnan(values[0, :, :, 0]), [[False, True], [False, False]])


@pytest.mark.parametrize("conv_impl", ["auto", "jax", "reference"])
def test_images_smaller_than_the_window(conv_impl):
    """No window of an empty result has a maximum, and the mean over no pixels was NaN."""
    with pytest.raises(ValueError, match=r"no window of 2x2 pixels .* images of 1x4: give"):
        max_pool(jnp.zeros((1, 1, 4, 1)), 2, 2, 0, conv_impl)
    model = create_model("resnet9", conv_impl=conv_impl, widths=(4, 4, 4, 4))
    with pytest.raises(ValueError, match=r"no window of 2x2 pixels .* images of 1x1: give"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 7, 7, 3)))
