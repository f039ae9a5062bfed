"""EvalTransform: the pixels of a photo against torchvision's rules and Pillow's grey."""

import numpy as np
import pytest
from PIL import Image

from flax_resnet.data import Dataset, Split
from flax_resnet.data.images import fit_image, load_image, resize_center_crop
from flax_resnet.transform import EvalTransform


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    path = tmp_path / "photo.png"
    small.resize((80, 60), Image.Resampling.BICUBIC).save(path)
    return path


def test_evaluation_resizes_by_256_224(photo):
    transform = EvalTransform.center_crop(28)
    assert transform.resize == 32
    expected = resize_center_crop(str(photo), 32, 28)
    np.testing.assert_array_equal(load_image(str(photo), transform), expected)


def test_a_photo_becomes_a_small_grey_image(photo):
    transform = EvalTransform.stored_like((28, 28, 1))
    got = load_image(str(photo), transform)
    assert got.shape == (28, 28, 1)
    middle = Image.open(photo).resize((37, 28), Image.Resampling.BILINEAR).crop((4, 0, 32, 28))
    expected = np.asarray(middle.convert("L"), np.int32)
    assert np.abs(got[..., 0] - expected).mean() < 4  # the widths 37 and 37.3 differ


def test_stored_images_that_are_not_square_squeeze_the_photo(photo):
    got = load_image(str(photo), EvalTransform.stored_like((24, 32, 3)))
    expected = Image.open(photo).resize((32, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got, np.asarray(expected))


def test_a_set_in_memory_has_the_transform_of_its_images():
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))
    digits = Dataset("digits", ("0", "1"), split, split, split)
    assert digits.transform == EvalTransform(8, 8, 8).with_channels(1)


def test_a_grey_image_of_the_right_size_is_kept_with_and_without_an_axis_of_channels():
    """Also where files would be resized to more before they are cropped."""
    transform = EvalTransform(28, 28, resize=32, channels=1)
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    for given in (image, image[..., None]):
        np.testing.assert_array_equal(fit_image(given, transform), image[..., None])


def noise(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_whole_image_is_squeezed_by_the_filter_that_is_named():
    pixels = noise(46, 61)
    expected = Image.fromarray(pixels).resize((24, 20), Image.Resampling.BICUBIC)
    transform = EvalTransform(20, 24, None, "bicubic")
    np.testing.assert_array_equal(fit_image(pixels, transform), np.asarray(expected))


@pytest.mark.parametrize(("crop_offset", "left"), [("nearest", 8), ("down", 7)])
def test_half_a_pixel_of_the_crop_s_offset(crop_offset, left):
    """36 of 46 makes 47 of 61 pixels, of which 32 are cropped from 7.5."""
    pixels = noise(46, 61)
    resized = Image.fromarray(pixels).resize((47, 36), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((left, 2, left + 32, 34)), int)
    transform = EvalTransform(32, 32, 36, crop_offset=crop_offset)
    assert np.abs(fit_image(pixels, transform) - expected).max() <= 1
