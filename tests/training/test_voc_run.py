"""VOC2012 from its own folder through `prepare` to a multi-label run, from the command line."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from flax_resnet.cli import main
from flax_resnet.data.tfds.voc import CLASSES
from tests.tiny_net import TINY_OPTIONS

TRAIN = (
    *TINY_OPTIONS,
    *("--data.name", "voc2012"),
    *("--data.image-size", "16", "--data.batch-size", "8", "--optimizer.schedule", "constant"),
    *("--augment.random-resized-crop", "--augment.crop-padding", "0", "--epochs", "2"),
    *("--evaluate-every", "1", "--augment.repeats", "2", "--compile-cache", "None"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Twenty training and ten validation photos of sizes of their own, with one or two classes."""
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, names in {"train": range(20), "val": range(20, 30)}.items():
        for number in names:
            size = tuple(rng.integers(20, 50, 2))
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(buffer, "JPEG")
            (root / "JPEGImages" / f"2008_{number:06}.jpg").write_bytes(buffer.getvalue())
        for index, name in enumerate(CLASSES):
            lines = []
            for number in names:
                mark = 1 if index in (number % 20, number * 7 % 20) else -1
                lines.append(f"2008_{number:06} {mark:2d}\n")
            (root / "ImageSets" / "Main" / f"{name}_{split}.txt").write_text("".join(lines))
    folder = tmp_path_factory.mktemp("tfds")
    source = str(root.parents[0])
    assert main(["prepare", "voc2012", "--from", source, "--data.dir", str(folder)]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_run_streams_and_tells_mean_average_precision(prepared, tmp_path, capfd):
    where = ("--data.dir", str(prepared), "--workdir", str(tmp_path / "run"))
    arguments = ["train", "--config", "digits", *TRAIN, *where, "--loss", "sigmoid"]
    assert main(arguments) == 0
    shown = capfd.readouterr().out
    assert "decoded as they are needed" in shown and "val mAP" in shown
    *lines, _ = map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert [line["epoch"] for line in lines] == [1, 2]
    # Some class is shown by an image of the ten, and none is ranked worse than last.
    assert all(0.1 <= line["val_map"] <= 1 for line in lines)
    # A wild guess at 20 questions costs log 2 each; the mean is over them.
    assert lines[0]["train_loss"] == pytest.approx(np.log(2), abs=0.5)
    check_evaluation(tmp_path, max(lines, key=lambda line: line["val_map"]), capfd)


def check_evaluation(folder, best, capfd):
    """`flax-resnet evaluate` finds again what training found, and says what it cannot do."""
    run, figures, table = (str(folder / name) for name in ("run", "e.json", "e.csv"))
    assert main(["evaluate", run, "--json", figures, "--output", table]) == 0
    assert "mean average precision" in capfd.readouterr().out
    found = json.loads((folder / "e.json").read_text())
    assert found["name"] == "voc2012 (validation)" and found["count"] == 10
    assert found["mean_average_precision"] == pytest.approx(best["val_map"], abs=0.02)
    assert found["loss"] == pytest.approx(best["val_loss"], rel=1e-3)
    _, first, *_ = csv.DictReader((folder / "e.csv").read_text().splitlines())
    assert first["true"] == "bicycle, cat"  # of image 21, by the lists: 21 % 20 and 147 % 20
    assert main(["evaluate", run, "--mistakes", str(folder / "m.png")]) == 2
    assert "--mistakes is for images with one class each" in capfd.readouterr().err
    assert main(["evaluate", run, str(folder)]) == 1
    assert "name no folder" in capfd.readouterr().err


def test_one_class_an_image_is_not_assumed(prepared, tmp_path, capfd):
    where = ("--data.dir", str(prepared), "--workdir", str(tmp_path / "run"))
    assert main(["train", "--config", "digits", *TRAIN, *where]) == 2
    assert "use --loss sigmoid" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--class-weights", "--data.sampling"])
def test_several_labels_of_an_image_are_not_balanced(option, prepared, tmp_path, capfd):
    where = ("--data.dir", str(prepared), "--workdir", str(tmp_path / "run"))
    words = ["train", "--config", "digits", *TRAIN, *where, "--loss", "sigmoid", option, "balanced"]
    assert main(words) == 2
    assert f"{option} balanced is for images with one class each" in capfd.readouterr().err
