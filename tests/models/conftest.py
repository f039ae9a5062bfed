"""For all tests of the models."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """The nets are tiny: compiling them is nearly all the time, and XLA's optimisations two thirds
    of that."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
