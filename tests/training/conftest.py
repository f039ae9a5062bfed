"""For all tests of training."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def shared_quick_compilations(tmp_path_factory):
    """Runs that differ in nothing XLA sees are compiled once, and quickly; child processes' too."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.getbasetemp() / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        # The nets are tiny: optimising their programs takes longer than running them.
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            jax.config.update(name, value)
            environment.setenv(name.upper(), str(value))
        yield
    for name, value in before.items():
        jax.config.update(name, value)
