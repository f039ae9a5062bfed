"""Fixtures of all tests."""

import os
import pathlib

import jax
import pytest
from jax._src import lru_cache
from rich.console import Console


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker consecutive tests, which share fixtures and compiled programs; a worker that
    is done takes half of another's."""
    if config.getoption("dist") == "load":
        from xdist.scheduler import WorkStealingScheduling

        return WorkStealingScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def shared_quick_compilations(tmp_path_factory):
    """Compile with few optimisations, which take longer than the tiny models run, and keep compiled
    programs for child processes and other workers; where JAX's own variable names a folder, also
    for other runs of the tests."""
    folder = tmp_path_factory.getbasetemp()
    if folder.name.startswith("popen-"):  # a worker's, in that of all
        folder = folder.parent
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(folder / "xla")
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_compilation_cache_max_size": 2**30,  # a bounded cache is locked while it is written
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            jax.config.update(name, value)
            environment.setenv(name.upper(), str(value))
        # Each write would read the times of all entries to find the oldest while it holds the lock,
        # minutes in a run of all tests. The bound is there for the lock.
        environment.setattr(
            lru_cache.LRUCache, "_evict_if_needed", lambda *_, **__: None, raising=False
        )
        yield


@pytest.fixture(autouse=True)
def compilation_settings_stay():
    """Undo what a command changes for its process: with every program kept, however small, the
    bounded cache made the tests after it ten times slower."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    yield
    for name, value in before.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep digests of files, and downloads, in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FLAX_RESNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def optimised():
    """Switch XLA's optimisations on, which the other tests do without."""
    option = "jax_disable_most_optimizations"
    before = jax.config.read(option)
    jax.config.update(option, False)
    yield
    jax.config.update(option, before)


@pytest.fixture
def no_page(monkeypatch):
    """A tiny run's page takes as long as the run; for tests of something else."""
    monkeypatch.setattr(
        "flax_resnet.training.recording.write_run_page", lambda workdir, *_: workdir
    )


@pytest.fixture
def console(tmp_path):
    """A console that writes to a file; ``console.text()`` reads it."""
    path = tmp_path / "console.txt"
    with path.open("w", encoding="utf-8") as file:
        quiet = Console(file=file, width=200, soft_wrap=True)

        def text():
            file.flush()
            return path.read_text(encoding="utf-8")

        quiet.text = text
        yield quiet


@pytest.fixture(scope="session")
def repository():
    return pathlib.Path(__file__).resolve().parent.parent
