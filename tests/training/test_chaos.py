"""The crash oracle with small counts; ``python -m benchmarks.chaos WORK`` has larger ones."""

import os
import shutil
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_killed_run_ends_in_the_same_bits(tmp_path, repository):
    counts = ("--calls", "1", "--moments", "1", "--faults", "0")
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", str(tmp_path), *counts],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "0 lost" in finished.stdout
