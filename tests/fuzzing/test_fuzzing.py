"""Damaged files are read or refused in one line, by every reader of files that others write."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing.readers import CORPUS, READERS, draw, outcome

FAILED = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.fixture
def folder_of(tmp_path):
    def prepared(name):
        if not READERS[name].is_installed:
            pytest.skip(f"needs {', '.join(READERS[name].needs)}")
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        READERS[name].prepare(folder)
        return folder

    warnings.simplefilter("ignore")
    return prepared


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, folder_of):
    folder, damaged_outcomes = folder_of(name), set()

    @settings(
        max_examples=30, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(seed=st.integers(0, 10**9))
    def damaged(seed):
        damaged_outcomes.add(outcome(name, draw(name, seed), folder))

    damaged()
    assert "refused" in damaged_outcomes
    assert "read" in [outcome(name, content, folder) for content in READERS[name].seeds()]


@pytest.mark.parametrize("path", FAILED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_that_once_failed(path, folder_of):
    name = next(name for name in READERS if name.replace(" ", "_") == path.parent.name)
    outcome(name, path.read_bytes(), folder_of(name))
