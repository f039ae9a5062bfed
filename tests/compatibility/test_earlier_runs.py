"""Runs that earlier versions wrote load for ever, with the logits that NumPy computed from them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import flax_resnet as fr
from flax_resnet.config import unflatten
from flax_resnet.data import load_dataset

RUNS = sorted(Path(__file__).parent.glob("*.zip"))


@pytest.mark.parametrize("weights", ["the file of weights", "the checkpoint"])
@pytest.mark.parametrize("archive", RUNS, ids=lambda path: path.stem)
def test_an_earlier_run_predicts_what_it_predicted(archive, weights, tmp_path):
    shutil.unpack_archive(archive, tmp_path)
    if weights == "the checkpoint":
        (tmp_path / "model.safetensors").unlink()
    recorded = json.loads(archive.with_suffix(".json").read_text())
    exponentials = np.exp(recorded["logits"])
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)

    classifier = fr.load(tmp_path)
    predictions = classifier.predict(np.array(recorded["images"], np.uint8))

    assert classifier.classes == tuple("0123456789")
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("archive", RUNS, ids=lambda path: path.stem)
def test_an_earlier_run_has_its_accuracy(archive, tmp_path):
    shutil.unpack_archive(archive, tmp_path)
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])
    digits = load_dataset("digits").test
    predictions = fr.load(tmp_path).predict(digits.images)
    right = predictions.probabilities.argmax(axis=1) == digits.labels
    assert right.mean() == pytest.approx(last["test_top1"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("archive", RUNS, ids=lambda path: path.stem)
def test_an_earlier_run_is_resumed(archive, tmp_path):
    """Its checkpoint has no factor of the learning rate, and no checksum of its score."""
    shutil.unpack_archive(archive, tmp_path)
    settings = unflatten(json.loads((tmp_path / "config.json").read_text()))
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])
    result = fr.train(dataclasses.replace(settings, workdir=str(tmp_path), compile_cache=None))
    assert (result.finished, result.best_step) == (True, last["best_step"])
    assert result.test["top1"] == pytest.approx(last["test_top1"], abs=1e-9)
