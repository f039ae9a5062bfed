"""The fast path for JPEG files: pixels equal Pillow's, and unusual files are left to Pillow."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from flax_resnet.data.images import (
    UNIFORMS_PER_CROP,
    crop_box,
    jpeg,
    random_resized_crop,
    read_image,
    resize_center_crop,
)


def photo(height, width, channels=3):
    """Return smooth blobs with some noise."""
    rng = np.random.default_rng(height * width)
    small = rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), np.uint8)
    soft = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    noisy = np.clip(soft + rng.normal(0, 4, soft.shape), 0, 255).astype(np.uint8)
    return noisy if channels == 3 else noisy[..., 0]


def encoded(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_decoded_pixels_equal_pillows(shrink, subsampling, channels):
    height, width = 61, 83
    content = encoded(photo(height, width, channels), subsampling=subsampling, quality=90)
    size = -(-height // shrink), -(-width // shrink)
    with Image.open(io.BytesIO(content)) as image:
        image.draft(None, (width // shrink, height // shrink))
        expected = np.asarray(image.convert("RGB"))
    found = jpeg.decode(content, (height, width), shrink)
    assert found.shape == (*size, 3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_requested_rows_are_decoded(shrink, options, channels):
    size = (93, 83)
    # The rows that are left out also have restart markers, as cameras write them.
    content = encoded(photo(*size, channels), quality=95, restart_marker_blocks=3, **options)
    whole = jpeg.decode(content, size, shrink).copy()
    lowest = []
    for rows in range(1, len(whole) + 1):
        found = jpeg.decode(content, size, shrink, rows=rows)
        assert rows <= len(found) <= len(whole)
        np.testing.assert_array_equal(found[:rows], whole[:rows])
        lowest.append(len(found))
    assert (lowest[0] < len(whole)) == ("progressive" not in options)


def test_fast_decoding_differs_by_at_most_two_levels_on_average():
    pixels = photo(150, 200)
    content = encoded(pixels, quality=90)
    exact = jpeg.decode(content, (150, 200)).astype(int)
    quick = jpeg.decode(content, (150, 200), quick=True)
    assert 0 < np.abs(quick - exact).mean() < 2


@pytest.mark.parametrize("subsampling", [0, 2])
def test_training_crops_differ_from_exact_ones_by_two_levels_on_average(subsampling):
    """The fast transform rounds down by about one level, and resizing by a quarter of a level."""
    height, width, size = 375, 500, 224
    content = encoded(photo(height, width), quality=90, subsampling=subsampling)
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    rng = np.random.default_rng(0)
    for _ in range(8):
        uniforms = rng.random(UNIFORMS_PER_CROP)
        found = random_resized_crop(content, uniforms, size).astype(int)
        top, left, box_height, box_width = crop_box(height, width, uniforms)

        def exact(across, box=(left, top, left + box_width, top + box_height)):
            region = whole.crop((box[0] + across, box[1], box[2] + across, box[3]))
            return np.asarray(region.resize((size, size), Image.Resampling.BILINEAR), int)

        apart = found - exact(0)
        assert np.abs(apart).mean() < 2
        assert np.abs(apart.mean((0, 1))).max() < 1.5  # the mean of each colour channel: no tint
        assert np.abs(found - exact(1))[:, :-4].mean() > 3  # fraction of a pixel's shift


@settings(deadline=None, max_examples=60, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    edges=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@example(shape=(55, 8), size=(26, 35), edges=[0.5, 0.5, 0.5, 1.0], interpolation="bilinear")
def test_resizing_a_box_equals_pillow_up_to_rounding(shape, size, edges, interpolation):
    pixels = photo(*shape)
    (left, right), (top, bottom) = sorted(edges[:2]), sorted(edges[2:])
    box = (
        left * (shape[1] - 1),
        top * (shape[0] - 1),
        right * (shape[1] - 1) + 1,
        bottom * (shape[0] - 1) + 1,
    )
    method = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], method, box=box), np.int16)
    found = jpeg.resize(pixels, box, size, interpolation)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    # Both libraries round after each axis. Bilinear weights are not negative and sum to 1, so each
    # is within 1 of the unrounded value. A cubic that overshoots is also cut off between the axes.
    apart = np.abs(found - expected)
    assert apart.mean() < 1
    assert (apart.max() if interpolation == "bilinear" else np.quantile(apart, 0.99)) <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "resize", "crop"), [((10, 20), 30, 28), ((96, 99), 288, 288)])
def test_enlarged_pixels_that_lie_on_stored_ones(shape, resize, crop, interpolation):
    """fast_image_resize read a cubic from outside its memory, which ended the process."""
    content = encoded(photo(*shape), quality=95)
    whole = Image.fromarray(read_image(content))
    size = resize * shape[1] // shape[0], resize
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    large = whole.resize(size, Image.Resampling[interpolation.upper()])
    expected = np.asarray(large.crop((left, top, left + crop, top + crop)), int)
    found = resize_center_crop(content, resize, crop, interpolation=interpolation)
    assert np.abs(found - expected).mean() < 0.5


def test_a_view_of_a_larger_array_is_resized_alone():
    pixels = photo(40, 50)
    region = pixels[5:25, 10:40]
    expected = np.asarray(
        Image.fromarray(region).resize((7, 9), Image.Resampling.BILINEAR), np.int16
    )
    assert np.abs(jpeg.resize(region, (0, 0, 30, 20), (9, 7)) - expected).max() <= 1


def test_unusual_files_are_left_to_pillow():
    content = encoded(photo(40, 50))
    assert jpeg.decode(content[: len(content) // 2], (40, 50)) is None
    assert jpeg.decode(content[: len(content) // 2], (40, 50), rows=1) is None
    assert jpeg.decode(b"<html>", (1, 1)) is None
    # Bytes after the end, which Pillow ignores.
    assert read_image(content + b"more").shape == (40, 50, 3)
    rng = np.random.default_rng(0)
    cmyk = Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8), "CMYK")
    buffer = io.BytesIO()
    cmyk.save(buffer, "JPEG")
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(buffer.getvalue()), expected)


def test_photos_take_the_fast_path(monkeypatch):
    content = encoded(photo(75, 100))
    crops = [
        lambda: random_resized_crop(content, np.full(22, 0.5), 32),
        lambda: resize_center_crop(content, 36, 32),
    ]
    quick = [crop() for crop in crops]
    seen = []
    monkeypatch.setattr(jpeg, "decode", lambda *arguments, **options: seen.append(arguments))
    slow = [crop() for crop in crops]
    assert len(seen) == 2
    for one, other, most in zip(quick, slow, (3, 1), strict=True):
        assert np.abs(one.astype(int) - other).max() <= most
