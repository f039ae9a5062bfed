"""A folder of photos trained, previewed and checked from the command line."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from tests.tiny_net import TINY_OPTIONS

TRAIN = (
    *TINY_OPTIONS,
    *("--data.name", "folder"),
    *("--data.image-size", "16", "--data.batch-size", "16", "--optimizer.schedule", "constant"),
    *("--augment.random-resized-crop", "--augment.crop-padding", "0", "--epochs", "2"),
    *("--compile-cache", "None"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        for split, count in (("train", 32), ("val", 8), ("test", 5)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (20, 30, 3), dtype=np.uint8)
                pixels[..., 2 * (1 - label)] += 180
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg")
    (folder / "train" / "red" / "0.jpg").write_bytes(b"<html>not found</html>")
    (folder / "test" / "blue" / "0.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """The folder of a run, and what it printed."""
    workdir = tmp_path_factory.mktemp("run") / "photos"
    arguments = ("--data.dir", str(photos), "--workdir", str(workdir))
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main(["train", "--config", "digits", *TRAIN, *arguments]) == 0
    return workdir, shown.getvalue()


def test_every_readable_image_is_evaluated_once(run):
    workdir, _ = run
    last = json.loads((workdir / "history.jsonl").read_text().splitlines()[-1])
    assert last["test_top1"] * 9 == pytest.approx(round(last["test_top1"] * 9), abs=1e-5)
    assert json.loads((workdir / "classes.json").read_text()) == ["blue", "red"]


def test_the_run_folder_holds_imagenets_normalisation(run):
    loaded = fr.load(run[0])
    assert loaded.transform.mean == (0.485, 0.456, 0.406)
    assert loaded.classes == ("blue", "red")


def test_unreadable_images_are_named(photos, run):
    _, shown = run
    assert "decoded as they are needed" in shown
    assert str(photos / "test" / "blue" / "0.jpg") in shown


def test_error_stops_at_the_first_unreadable_image(photos, tmp_path, capfd):
    arguments = ("--data.dir", str(photos), "--workdir", str(tmp_path / "run"))
    more = ("--data.on-bad-image", "error")
    assert main(["train", "--config", "digits", *TRAIN, *arguments, *more]) == 1
    assert ".jpg" in capfd.readouterr().err


def test_check_names_what_is_wrong(photos, tmp_path, capfd):
    sheet = tmp_path / "sheet.png"
    assert main(["check", str(photos), "--sheet", str(sheet)]) == 0
    shown = "".join(capfd.readouterr().out.split())
    assert "train/red/0.jpg" in shown
    assert Image.open(sheet).size[0] > 500


def test_preview_shows_a_batch(photos, tmp_path):
    picture = tmp_path / "augment.png"
    arguments = ("--data.dir", str(photos), "--output", str(picture), "--augment.rotation", "20")
    assert main(["augment-preview", "--config", "digits", *TRAIN, *arguments]) == 0
    image = np.asarray(Image.open(picture))
    tile = 64 + 2
    assert image.shape == (6 * tile, 9 * tile, 3)
    stored, augmented = image[:tile, :tile], image[:tile, tile : 2 * tile]
    assert not np.array_equal(stored, augmented)
