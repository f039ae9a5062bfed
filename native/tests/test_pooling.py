"""Errors and ``vmap`` of max-pool. Its values and gradients are tested with the models."""

import flax_resnet_onednn as onednn
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def test_vmap():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 8, 7, 5)), jnp.float32)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(onednn.max_pool(x, 3, 2, 1) ** 2))(x)

    got = jax.vmap(gradient)(x)
    for one, image in zip(got, x, strict=True):
        np.testing.assert_array_equal(one, gradient(image))


@pytest.mark.parametrize(
    ("shape", "window", "padding"), [((1, 9, 9, 2), 16, 4), ((1, 4, 4, 2), 3, 2), ((4, 4, 2), 2, 0)]
)
def test_arguments_that_do_not_fit(shape, window, padding):
    with pytest.raises(ValueError, match="max-pool takes images"):
        onednn.max_pool(jnp.zeros(shape), window, 1, padding)


def test_images_smaller_than_the_window():
    with pytest.raises(ValueError, match="no window"):
        onednn.max_pool(jnp.zeros((1, 4, 1, 2)), 3, 1)


def test_dtype():
    with pytest.raises(TypeError, match="float32, not bfloat16"):
        onednn.max_pool(jnp.zeros((1, 4, 4, 2), jnp.bfloat16), 2, 2)
