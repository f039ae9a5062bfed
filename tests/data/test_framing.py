"""How a photo becomes the pixels of a set: beside torchvision's rules and Pillow's grey."""

import numpy as np
import pytest
from PIL import Image

from flax_resnet.data import Dataset, Framing, Split
from flax_resnet.data.images import resize_center_crop


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    path = tmp_path / "photo.png"
    small.resize((80, 60), Image.Resampling.BICUBIC).save(path)
    return path


def test_evaluation_resizes_by_256_224(photo):
    framing = Framing.evaluating(28)
    assert framing.resize == 32
    expected = resize_center_crop(str(photo), 32, 28)
    np.testing.assert_array_equal(framing.read(str(photo)), expected)


def test_a_photo_becomes_a_small_grey_image(photo):
    framing = Framing.like((28, 28, 1))
    got = framing.read(str(photo))
    assert got.shape == (28, 28, 1)
    middle = Image.open(photo).resize((37, 28), Image.Resampling.BILINEAR).crop((4, 0, 32, 28))
    expected = np.asarray(middle.convert("L"), np.int32)
    assert np.abs(got[..., 0] - expected).mean() < 4  # the widths 37 and 37.3 differ


def test_stored_images_that_are_not_square_squeeze_the_photo(photo):
    got = Framing.like((24, 32, 3)).read(str(photo))
    expected = Image.open(photo).resize((32, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(expected))


def test_a_set_in_memory_frames_like_its_images():
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))
    digits = Dataset("digits", ("0", "1"), split, split, split)
    assert digits.framing == Framing(8, 8, 8, channels=1)
