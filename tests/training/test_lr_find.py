"""The search for the learning rate."""

import numpy as np
import pytest
from PIL import Image

from flax_resnet.cli import main
from flax_resnet.training.lr_find import suggest


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_least_loss():
    rates = np.logspace(-6, 1, 100)
    losses = 2.3 - 1.5 * np.exp(-((np.log10(rates) + 1) ** 2)) + 3 * (rates > 1)
    noisy = losses + np.random.default_rng(0).normal(0, 0.02, 100)
    suggestion = suggest(rates, noisy).suggestion
    assert 0.005 < suggestion < 0.05  # the least loss is at 0.1; the average lags behind it
    assert suggest(rates, np.full(100, 2.3)).suggestion is None


@pytest.mark.slow
def test_the_command_draws_the_loss_and_prints_an_option(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "lr-find --config digits --model.name resnet8 --steps 60 --data.batch-size 64"
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    rate = float(out.split("--optimizer.learning-rate ")[1])
    assert 1e-3 < rate < 1
    assert Image.open("lr.png").width > 500
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]
