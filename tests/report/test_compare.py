"""Comparison of runs: the same images are found, and tested in pairs."""

import json

import numpy as np
import pytest

from flax_resnet.cli import main
from flax_resnet.config import Config, flatten
from flax_resnet.data import Split
from flax_resnet.data.fingerprint import Fingerprint, SplitFingerprint
from flax_resnet.metrics import evaluate_logits
from flax_resnet.report import page as pages
from flax_resnet.report import write_page
from flax_resnet.report.compare import (
    paired_test,
    read_compared_runs,
    same_images,
    setting_differences,
)
from flax_resnet.report.outcomes import outcomes_of

CLASSES = ("cat", "<script>")


def write_run(folder, predicted, order, epochs):
    """A run that predicts so of images a to f, which it evaluated in this order."""
    folder.mkdir()
    truth = np.array([0, 1, 0, 1, 0, 1])
    logits = np.where(np.arange(2) == np.array(predicted)[:, None], 2.0, -1.0)
    images = Split(np.zeros((6, 8, 8, 3), np.uint8), truth[order].astype(np.int32))
    files = {f"{folder.name}/{name}.jpg": name for name in "abcdef"}
    names = [f"{folder.name}/{'abcdef'[n]}.jpg" for n in order]
    parts = {"test": SplitFingerprint(6, folder.name, files)}
    empty = {name: SplitFingerprint(0, "") for name in ("train", "validation")}
    data = Fingerprint(CLASSES, parts | empty).to_json()
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "config.json").write_text(json.dumps({"epochs": epochs, "workdir": folder.name}))
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    (folder / "history.jsonl").write_text(json.dumps({
        "step": 1, "epoch": epochs, "time": 9.0, "train_loss": 1.0, "train_top1": 0.5,
        "learning_rate": 0.1, "images_per_second": 1.0, "data_wait": 0.0}) + "\n")  # fmt: skip
    made = evaluate_logits("six", logits[order], truth[order], CLASSES)
    write_page(folder, made, outcomes_of(logits[order], truth[order], names, images=images))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "write_plots", lambda *_: None)
    monkeypatch.setattr(pages, "run_model", lambda *_: (None, None))
    write_run(tmp_path / "first", [0, 1, 0, 0, 1, 0], [0, 1, 2, 3, 4, 5], 3)  # a b c right
    write_run(tmp_path / "second", [0, 1, 1, 1, 0, 0], [5, 3, 1, 0, 2, 4], 5)  # a b d e right
    return [tmp_path / "first", tmp_path / "second"]


def test_a_paired_test_by_hand():
    first = np.array([True] * 1 + [False] * 8 + [True] * 91)
    second = np.array([False] * 1 + [True] * 8 + [True] * 91)
    found = paired_test(first, second)
    assert (found.images, found.first_only, found.second_only) == (100, 1, 8)
    assert found.difference == pytest.approx(0.07)
    assert found.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # two tails of 9 tosses
    error = np.sqrt(9 - 49 / 100) / 100
    assert found.low == pytest.approx(0.07 - 1.96 * error, abs=0.012)
    assert found.high == pytest.approx(0.07 + 1.96 * error, abs=0.012)
    assert paired_test(first, first).p_value == 1


def test_the_same_files_are_found_in_another_order_and_folder(runs):
    one, two = read_compared_runs(runs)
    first, second = same_images(one, two)
    assert [one.outcomes.names[row][-5] for row in first] == [*"fdbace"]
    assert [two.outcomes.names[row][-5] for row in second] == [*"fdbace"]
    found = paired_test(one.outcomes.correct[first], two.outcomes.correct[second])
    assert (found.first_only, found.second_only) == (1, 2)


def test_the_command_writes_a_page(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = tmp_path / "c.html"
    assert main(["compare", *map(str, runs), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "second − first" in shown and "epochs" in shown and "workdir" not in shown
    text = output.read_text(encoding="utf-8")
    assert "settings that differ" in shown and text.count("<script") == 2
    assert '"true":"cat"' in text and "\\u003cscript\\u003e" in text


def test_settings_of_an_earlier_version_are_those_that_it_had(runs):
    """A setting that was added since was listed as None beside its default."""
    settings = flatten(Config(epochs=3))
    written = [settings | {"workdir": "first"}, settings | {"workdir": "second"}]
    del written[0]["optimizer.clip_norm"], written[0]["optimizer.bias_rate"]
    for run, values in zip(runs, written, strict=True):
        (run / "config.json").write_text(json.dumps(values))
    assert setting_differences(read_compared_runs(runs)) == []
    (runs[1] / "config.json").write_text(json.dumps({"model.name": "resnet50"}))  # by convert
    assert ("data.name", ["cifar10", "None"]) in setting_differences(read_compared_runs(runs))


def test_wrong_usage_and_runs_without_outcomes(runs, capsys):
    assert main(["compare", str(runs[0])]) == 2
    assert "two runs or more" in capsys.readouterr().err
    (runs[1] / "report" / "images.npz").unlink()
    assert main(["compare", *map(str, runs), "--output", str(runs[0] / "c.html")]) == 0
    assert "no images in common" in capsys.readouterr().err
