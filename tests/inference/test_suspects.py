"""Photos whose label looks wrong."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from flax_resnet.cli import main
from flax_resnet.inference.suspects import cross_fit, rank_suspects


@pytest.mark.slow
def test_flipped_labels_come_first():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    features = (rng.normal(size=(400, 6)) + 4 * np.eye(4, 6)[labels]).astype(np.float32)
    wrong = rng.choice(400, 20, replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 4
    order, suspected = rank_suspects(cross_fit(features, given, 4), given)
    assert len(np.intersect1d(order[:20], wrong)) >= 18
    assert suspected[wrong].sum() >= 16 and suspected.sum() <= 40


def test_a_label_is_suspected_if_another_class_is_as_probable_as_its_own_photos_find_it():
    """By hand: the mean probability of class 0 in photos labelled 0 is 0.7, of class 1 0.6."""
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.3, 0.7], [0.25, 0.75]])
    labels = np.array([0, 0, 1, 1, 0])
    probabilities[4] = 0.7, 0.3
    labels_wrong = np.array([0, 0, 1, 1, 1])
    order, suspected = rank_suspects(probabilities, labels_wrong)
    assert order.tolist() == [4, 1, 2, 3, 0]
    assert suspected.tolist() == [False, False, False, False, True]
    assert not rank_suspects(probabilities, labels)[1].any()


@pytest.mark.slow
def test_the_command_names_a_photo_in_the_wrong_folder(
    run_folder, photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for color in ("blue", "green", "red"):
        shutil.copytree(photos / "train" / color, tmp_path / "set" / color)
    shutil.move(tmp_path / "set/red/3.png", tmp_path / "set/blue/stray.png")
    (tmp_path / "set/grey").mkdir()
    Image.new("RGB", (20, 20), "grey").save(tmp_path / "set/grey/0.png")
    line = ["check", "set", "--suspects", "--model", str(run_folder), "--suspects-list", "all.csv"]
    assert main(line) == 0
    out, err = capsys.readouterr()
    assert "labels that look wrong: 1 of 72" in out
    assert "blue/stray.png (labelled blue, looks like red, " in out
    assert "grey has too few photos to judge" in err
    assert Image.open("suspects.png").width > 100
    with open("all.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72
    assert (rows[0]["label"], rows[0]["suggested"], rows[0]["suspected"]) == ("blue", "red", "1")
