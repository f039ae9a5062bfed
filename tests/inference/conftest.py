"""A tiny run on a folder of photos, trained once for all tests of what is done with a run; and one
of random weights."""

import numpy as np
import pytest
from PIL import Image

import flax_resnet as fr
from flax_resnet.cli import main
from flax_resnet.weights import write_weights
from tests.weights.conftest import seeded_state_dict, torch_shapes

CLASSES = ("blue", "green", "red")
TRAIN = (
    *("--model.name", "resnet8", "--model.stem", "cifar", "--data.name", "folder"),
    *("--data.image-size", "16", "--data.batch-size", "16", "--optimizer.schedule", "constant"),
    *("--optimizer.learning-rate", "0.02", "--augment.crop-padding", "0", "--epochs", "9"),
    *("--evaluate-every", "9", "--compile-cache", "None"),
)


def photo(color, seed, size=(30, 20)):
    pixels = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., CLASSES[::-1].index(color)] += 180
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """train, val and test of three classes; one file of test is no image."""
    folder = tmp_path_factory.mktemp("photos")
    for color in CLASSES:
        for split, count in (("train", 24), ("val", 5), ("test", 5)):
            (folder / split / color).mkdir(parents=True)
            for number in range(count):
                where = folder / split / color / f"{number}.png"
                photo(color, 100 * len(split) + number).save(where)
    (folder / "test" / "red" / "4.png").write_bytes(b"<html>not found</html>")
    return folder


@pytest.fixture(scope="session")
def run_folder(photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "colors"
    arguments = ("--data.dir", str(photos), "--workdir", str(workdir))
    assert main(["train", "--config", "digits", *TRAIN, *arguments]) == 0
    return workdir


@pytest.fixture(scope="session")
def random_run(tmp_path_factory):
    """Random weights, whose probabilities are not all 0 or 1."""
    folder = tmp_path_factory.mktemp("served")
    model = fr.create_model("resnet8", num_classes=3, stem="cifar")
    state_dict = seeded_state_dict(torch_shapes(model))
    state_dict["fc.weight"] *= 0.05
    write_weights(folder / "weights.safetensors", state_dict)
    fr.load(folder / "weights.safetensors", classes=CLASSES).save(folder / "run")
    return folder / "run"
