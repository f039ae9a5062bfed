"""``open_dataset``: folders are decoded batch by batch, arrays are held in memory."""

import numpy as np
import pytest
from PIL import Image

from flax_resnet import UserError
from flax_resnet.config import AugmentConfig, DataConfig
from flax_resnet.data import open_dataset


@pytest.fixture
def photos(tmp_path):
    """Two classes of forty 20x30 photos, each class of one colour."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(0, 60, (20, 30, 3), dtype=np.uint8)
            pixels[..., 2 * (1 - label)] += 180
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def opened(folder, **data):
    return open_dataset(DataConfig(name="folder", dir=str(folder), **data), AugmentConfig())


def test_a_folder_streams(photos):
    dataset = opened(photos, image_size=16)
    assert dataset.name == "photos"
    assert dataset.classes == ("blue", "red")
    assert dataset.image_shape == (16, 16, 3)
    assert dataset.train.streams
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 80
    batch = dataset.train.gather(np.arange(8))
    assert batch["image"].shape == (8, 16, 16, 3)
    bluest = batch["image"].mean((1, 2))[:, [2, 0]].argmax(1)
    np.testing.assert_array_equal(bluest, batch["label"])


def test_the_ratios_of_the_splits_are_the_configs(photos):
    dataset = opened(photos, splits=(1, 0, 0))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (80, 0, 0)


def test_an_npz_is_held_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", image=images, label=rng.integers(0, 3, 50))
    dataset = opened(tmp_path / "set.npz")
    assert not dataset.train.streams
    assert dataset.image_shape == (8, 8, 1)


def test_a_set_by_name_is_held_in_memory():
    dataset = open_dataset(DataConfig(name="digits"), AugmentConfig())
    assert (dataset.image_shape, dataset.bad, dataset.notes) == ((8, 8, 1), {}, ())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DataConfig(name="folder"), "needs --data.dir"),
        (DataConfig(name="folder", dir="no/such/folder"), "does not exist"),
        (DataConfig(name="cifar11"), "cifar10"),
    ],
)
def test_absent_data_are_reported(data, sentence):
    with pytest.raises(UserError, match=sentence):
        open_dataset(data, AugmentConfig())
