"""The passes of batch normalisation agree with their formulas in NumPy, in float64."""

import flax_resnet_onednn.normalization as native
import jax
import jax.numpy as jnp
import numpy as np
import pytest

# With few channels several pixels are treated as one row, and the last row is shorter.
SHAPES = [(2, 5, 3, 1), (3, 7, 5, 16), (2, 9, 9, 24), (1, 1, 1, 3), (4, 13, 300), (2, 6, 6, 2048)]


def close(got, expected):
    scale = np.abs(expected).max() + 1e-9
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=2e-6 * scale)


@pytest.fixture(params=SHAPES, ids=str)
def arrays(request):
    rng = np.random.default_rng(0)
    shape = request.param
    images = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    channels = [rng.normal(size=shape[-1]).astype(np.float32) for _ in range(5)]
    return images, channels


def in_float64(*arrays):
    return [np.asarray(array, np.float64) for array in arrays]


def test_moments(arrays):
    (x, *_), _ = arrays
    axes = tuple(range(x.ndim - 1))
    mean, mean_square = jax.jit(native.moments)(x + 3)
    (values,) = in_float64(x + 3)
    close(mean, values.mean(axes))
    close(mean_square, np.square(values).mean(axes))


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_normalize(arrays, with_residual, relu):
    (x, residual, _), (mean, factor, bias, *_) = arrays
    affine = native.Affine(*map(jnp.asarray, (mean, factor, bias)))
    got = jax.jit(native.normalize, static_argnames="relu")(
        x, affine, residual if with_residual else None, relu=relu
    )
    x, residual, mean, factor, bias = in_float64(x, residual, mean, factor, bias)
    expected = (x - mean) * factor + bias + (residual if with_residual else 0)
    close(got, np.maximum(expected, 0) if relu else expected)


@pytest.mark.parametrize("mask", ["none", "from x", "from y"])
def test_gradients(arrays, mask):
    (x, dy, y), (mean, factor, bias, mean_gradient, projection) = arrays
    affine = native.Affine(*map(jnp.asarray, (mean, factor, bias)))
    relu, given = mask != "none", y if mask == "from y" else None

    @jax.jit
    def gradients(dy, x, y):
        *sums, g = native.gradient_sums(dy, x, affine, y, relu=relu)
        masked = native.input_gradient(
            g, x, affine, mean_gradient, projection, relu=mask == "from x"
        )
        return *sums, masked

    got = gradients(dy, x, given)
    x, dy, y, mean, factor, bias, mean_gradient, projection = in_float64(
        x, dy, y, mean, factor, bias, mean_gradient, projection
    )
    output = y if mask == "from y" else (x - mean) * factor + bias
    g = np.where(output > 0, dy, 0) if relu else dy
    axes = tuple(range(x.ndim - 1))
    close(got[0], g.sum(axes))
    close(got[1], (g * (x - mean)).sum(axes))
    close(got[2], factor * (g - mean_gradient - (x - mean) * projection))


def test_nan_stays_nan():
    x = jnp.full((2, 3, 3, 8), jnp.nan)
    ones = jnp.ones(8)
    assert jnp.isnan(native.normalize(x, native.Affine(ones, ones, ones), relu=True)).all()


def test_arrays_that_do_not_fit():
    x, ones = jnp.ones((2, 4, 4, 8)), jnp.ones(7)
    with pytest.raises(Exception, match="do not fit"):
        native.normalize(x, native.Affine(ones, ones, ones)).block_until_ready()
    with pytest.raises(Exception, match="takes float32 images"):
        native.moments(x.astype(jnp.bfloat16))[0].block_until_ready()
