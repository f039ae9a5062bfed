"""Fixtures of all tests."""

import pathlib

import pytest
from rich.console import Console


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
