"""The search for the learning rate."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from flax_resnet.cli import main
from flax_resnet.config import AugmentConfig, Config, DataConfig
from flax_resnet.training import find_learning_rate, lr_find
from flax_resnet.training.lr_find import suggest
from flax_resnet.training.resolve import resolve
from tests.tiny_net import TINY, TINY_OPTIONS
from tests.training.test_diverging import SpikeAt


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
    words = ("--config", "digits", *TINY_OPTIONS, "--steps", "60", "--data.batch-size", "64")
    assert main(["lr-find", *words]) == 0
    out = capsys.readouterr().out
    rate = float(out.split("--optimizer.learning-rate ")[1])
    assert 1e-3 < rate < 1
    assert Image.open("lr.png").width > 500
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]


def test_with_muon_both_rates_are_suggested(capsys, monkeypatch):
    """The search raises them in proportion, and the other one stayed that of the config."""
    found = SimpleNamespace(suggestion=0.8, rates=[0.1, 1.0])  # of batches of 64
    monkeypatch.setattr("flax_resnet.training.find_learning_rate", lambda *_, **__: found)
    words = ["--optimizer.name", "muon", "--optimizer.learning-rate", "0.2"]
    words += ["--optimizer.sgd-learning-rate", "0.05", "--data.batch-size", "64"]
    words += ["--optimizer.base-batch-size", "32"]
    assert main(["lr-find", "--config", "digits", *words]) == 0
    options = "--optimizer.learning-rate 0.4 --optimizer.sgd-learning-rate 0.1\n"
    assert capsys.readouterr().out.endswith(f"\n{options}")


@pytest.mark.slow
def test_image_files_of_several_sizes_are_searched_at_the_first(noise_photos):
    """A program for images of one size was called with those of the next."""
    config = Config(
        model=TINY,
        data=DataConfig(
            name="folder",
            dir=str(noise_photos),
            image_size=16,
            batch_size=16,
            train_sizes=((0, 8), (1, 12)),
        ),
        augment=AugmentConfig(random_resized_crop=True),
        epochs=3,
        compile_cache=None,
    )
    assert len(find_learning_rate(config, steps=10).losses) == 10


@pytest.mark.slow
def test_a_search_ends_at_a_loss_that_is_not_finite_where_training_would_skip(monkeypatch):
    """Such a step had the loss 0, the least of all."""

    def spiked(settings):
        run = resolve(settings)
        key = jax.random.fold_in(jax.random.wrap_key_data(run.init().key), 4)
        augment_key, _ = jax.random.split(key)
        augment = SpikeAt((tuple(np.asarray(jax.random.key_data(augment_key)).tolist()),))
        return dataclasses.replace(run, step=dataclasses.replace(run.step, augment=augment))

    monkeypatch.setattr(lr_find, "resolve", spiked)
    data = DataConfig(name="digits", batch_size=64)
    config = Config(model=TINY, data=data, on_nan="skip", compile_cache=None)
    losses = find_learning_rate(config, steps=10).losses
    assert len(losses) == 4 and losses.min() > 1
