"""For all tests of training."""

import pytest

from flax_resnet.training import recording


@pytest.fixture
def no_page(monkeypatch):
    """A tiny run's page takes as long as the run; for tests of something else."""
    monkeypatch.setattr(recording, "write_run_page", lambda workdir, *_: workdir)
