"""Decoding of one file: formats and modes, damage, crops. Expected values are Pillow's on the
whole image, torchvision's boxes, or plain NumPy."""

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flax_resnet.data.images import (
    FORMATS,
    UNIFORMS_PER_CROP,
    ImageDecodeError,
    crop_box,
    random_resized_crop,
    read_header,
    read_image,
    resize_center_crop,
    thumbnail,
)
from flax_resnet.errors import UserError

HEIGHT, WIDTH = 37, 52
_ORIENTATION = 0x0112
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def soft_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a synthetic photo, uint8 ``[height, width, 3]``: more power in low frequencies, and as
    much detail in single pixels as a photo of a phone."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / width
    channels = [
        np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / frequency**1.5))
        for _ in range(3)
    ]
    values = np.stack([channel / channel.std() for channel in channels], axis=-1)
    return np.clip(values * 50 + 128, 0, 255).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}) | options)
    return buffer.getvalue()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape and one.dtype == other.dtype == np.uint8
    return float(np.abs(one.astype(int) - other).mean())


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return soft_photo(HEIGHT, WIDTH)


# --- Formats and modes -------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_are_decoded_exactly(kind: str, photo: np.ndarray) -> None:
    content = encoded(photo, kind)
    np.testing.assert_array_equal(read_image(content), photo)
    header = read_header(content)
    assert (header.format, header.height, header.width) == (kind, HEIGHT, WIDTH)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(progressive: bool, photo: np.ndarray) -> None:
    content = encoded(photo, "JPEG", quality=95, subsampling=0, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(read_image(content), expected)
    assert difference(expected, photo) < 8  # only the compression changes values


def test_path_and_bytes_are_the_same(tmp_path: Path, photo: np.ndarray) -> None:
    path = tmp_path / "ä b.png"
    path.write_bytes(encoded(photo, "PNG"))
    for file in (path, str(path)):
        np.testing.assert_array_equal(read_image(file), photo)


def test_result_can_be_written_to(photo: np.ndarray) -> None:
    read_image(encoded(photo, "PNG"))[:] = 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_grey_is_repeated(kind: str) -> None:
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    image = read_image(encoded(grey, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert image.shape == (16, 32, 3)
    assert difference(image, np.repeat(grey[..., None], 3, axis=2)) <= 1


def test_two_level_image() -> None:
    bits = np.indices((9, 11)).sum(0) % 3 == 0
    image = read_image(encoded(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(image, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_dropped_and_the_colour_below_it_stays(mode: str) -> None:
    below = np.full((8, 9, len(mode)), 90, np.uint8)
    below[..., -1] = np.arange(9) * 20
    image = read_image(encoded(Image.fromarray(below, mode), "PNG"))
    np.testing.assert_array_equal(image, np.full((8, 9, 3), 90))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_is_looked_up(kind: str) -> None:
    colours = np.array([[255, 0, 0], [10, 200, 30], [0, 0, 77], [250, 250, 250]], np.uint8)
    indexed = Image.fromarray((np.indices((12, 10)).sum(0) % 4).astype(np.uint8), "P")
    indexed.putpalette(colours.tobytes())
    image = read_image(encoded(indexed, kind))
    np.testing.assert_array_equal(image, colours[np.indices((12, 10)).sum(0) % 4])


def test_palette_with_transparency_gives_no_warning() -> None:
    indexed = Image.new("P", (4, 4), 1)
    indexed.putpalette(bytes([0, 0, 0, 9, 8, 7]))
    content = encoded(indexed, "PNG", transparency=bytes([0, 100]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(content) == [9, 8, 7]).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind: str) -> None:
    """Pillow writes CMYK JPEG files like Adobe, with inverted values and a marker for it."""
    blocks = np.zeros((16, 48, 3), np.uint8)
    blocks[:, :16], blocks[:, 16:32], blocks[:, 32:] = (255, 0, 0), (255, 255, 255), (0, 0, 128)
    content = encoded(
        Image.fromarray(blocks).convert("CMYK"),
        kind,
        **({"quality": 100} if kind == "JPEG" else {}),
    )
    assert kind != "JPEG" or b"Adobe" in content
    assert difference(read_image(content), blocks) < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    image = read_image(encoded(deep, kind))
    np.testing.assert_array_equal(image, np.rint(deep / 257)[..., None].repeat(3, 2))
    cropped = resize_center_crop(encoded(deep, kind), 24, 24)
    np.testing.assert_array_equal(cropped, image[:, 4:28])


def test_16_bit_big_endian_tiff() -> None:
    deep = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 0x0102, 0xF0F1))
    assert read_image(encoded(deep, "TIFF"))[0, :, 0].tolist() == [1, 0xF0]


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_is_scaled(channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (7, 5, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    content = _png(struct.pack(">IIBBBBB", 5, 7, 16, {3: 2, 4: 6}[channels], 0, 0, 0), rows)
    assert np.abs(read_image(content) - deep[..., :3] / 257).max() <= 1


def _png(header: bytes, rows: bytes) -> bytes:
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_grey_is_refused(mode: str) -> None:
    with pytest.raises(ImageDecodeError, match="32 bits: save it with 8 or 16"):
        read_image(encoded(Image.new(mode, (4, 4)), "TIFF"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame(kind: str) -> None:
    red, blue = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    content = encoded(red, kind, save_all=True, append_images=[blue])
    assert difference(read_image(content), np.array(red)) < 2
    assert read_header(content).format == {"MPO": "JPEG"}.get(kind, kind)


# --- Orientation -------------------------------------------------------------


def _turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the stored image that the EXIF orientation turns upright."""
    mirrored = upright[:, ::-1] if orientation in (2, 4, 5, 7) else upright
    quarters = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}[orientation]
    return np.ascontiguousarray(np.rot90(mirrored, quarters))


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int, photo: np.ndarray) -> None:
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    content = encoded(_turned(photo, orientation), kind, exif=_exif(orientation), **options)
    header = read_header(content)
    assert (header.height, header.width) == (HEIGHT, WIDTH)
    assert difference(read_image(content), photo) <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize(("height", "width"), [(60, 93), (91, 62)])
def test_crops_of_a_turned_image_are_those_of_the_upright_one(
    orientation: int, height: int, width: int
) -> None:
    upright = soft_photo(height, width)
    stored = encoded(_turned(upright, orientation), "PNG", exif=_exif(orientation))
    plain = encoded(upright, "PNG")
    uniforms = np.random.default_rng(orientation).random(UNIFORMS_PER_CROP)
    pairs = [
        (random_resized_crop(content, uniforms, 24), resize_center_crop(content, 28, 24))
        for content in (stored, plain)
    ]
    for one, other in zip(*pairs, strict=True):
        assert difference(one, other) < 0.5  # of rounding


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(("side", "size"), [(21, 19), (25, 11), (29, 28)])
def test_a_turned_image_is_cropped_to_its_whole_side(kind: str, side: int, size: int) -> None:
    """``size * (side / size)`` is above ``side`` in floating point, and the crop, measured from the
    opposite edge, began outside the image."""
    upright = soft_photo(side, side + 7)
    for orientation in range(2, 9):
        options = {} if kind == "PNG" else {"quality": 95, "subsampling": 0}
        content = encoded(_turned(upright, orientation), kind, exif=_exif(orientation), **options)
        expected = _pillow_center(Image.fromarray(upright), size, size, "bilinear")
        assert difference(resize_center_crop(content, size, size), expected) < 2


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_scaled_decoding_of_a_turned_jpeg_does_not_shift(orientation: int) -> None:
    """The size is odd, so that the last pixel of the scaled image extends beyond the edge."""
    upright = soft_photo(401, 533)
    content = encoded(
        _turned(upright, orientation), "JPEG", quality=95, subsampling=0, exif=_exif(orientation)
    )
    whole = Image.fromarray(upright)
    expected = np.array(whole.resize((32, 24), _FILTERS["bilinear"]))
    assert difference(thumbnail(content, (24, 32)), expected) < 1
    uniforms = [0.5, 0.5, 0.9999999, 0.5]
    box = crop_box(401, 533, uniforms)
    area = (box.left, box.top, box.left + box.width, box.top + box.height)
    expected = np.array(whole.crop(area).resize((48, 48), _FILTERS["bilinear"]))
    assert difference(random_resized_crop(content, uniforms, 48), expected) < 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_spoil_the_image(photo: np.ndarray) -> None:
    exif = b"Exif\0\0II*\0" + b"\xff" * 40
    content = encoded(photo, "JPEG", quality=95, subsampling=0, exif=exif)
    plain = encoded(photo, "JPEG", quality=95, subsampling=0)
    np.testing.assert_array_equal(read_image(content), read_image(plain))


# --- Bad files ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><head>", "is text and not an image: it begins with '<!DOCTYPE"),
        ("\ufeffNot found, ä".encode(), "it begins with 'Not found, ä'"),
        (b"\xff\xd8\xff\xe0\0", "begins as a JPEG but its header is damaged or cut off"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is a HEIC image, which needs pillow-heif"),
        (bytes(range(128, 228)), "is not an image of a known format"),
        (b"\0", "is not an image of a known format"),
    ],
)
@pytest.mark.parametrize(
    "read",
    [
        read_image,
        read_header,
        lambda path: random_resized_crop(path, np.zeros(UNIFORMS_PER_CROP), 8),
        lambda path: resize_center_crop(path, 8, 8),
        lambda path: thumbnail(path, (8, 8)),
    ],
)
def test_bad_file_is_named_with_the_reason(
    read: Callable[[Path], object], content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rose.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageDecodeError) as caught:
        read(path)
    assert caught.value.name == str(path)
    assert reason in caught.value.reason
    message = str(caught.value)
    assert message.startswith(f"{path} {caught.value.reason}; ") and "\n" not in message
    assert isinstance(caught.value, UserError)


def test_bytes_are_described_by_their_number() -> None:
    with pytest.raises(ImageDecodeError, match="an image of 5 bytes is text"):
        read_image(b"hello")


@pytest.mark.parametrize("name", ["absent.jpg", "."])
def test_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageDecodeError, match="cannot be read"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_file_that_is_cut_off(kind: str, photo: np.ndarray) -> None:
    content = encoded(photo, kind)
    for eighths in range(1, 7):
        with pytest.raises(ImageDecodeError):
            read_image(content[: len(content) * eighths // 8])


def test_cut_off_jpeg_is_found_when_decoded_to_a_smaller_size() -> None:
    content = encoded(soft_photo(400, 400), "JPEG")
    with pytest.raises(ImageDecodeError, match="truncated"):
        thumbnail(content[:-200], (8, 8))


def test_too_many_pixels_are_refused_before_decoding() -> None:
    """The file ends after its header, so that only the header can have been read."""
    content = _png(struct.pack(">IIBBBBB", 10_001, 10_000, 1, 0, 0, 0, 0), b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(
            ImageDecodeError, match=r"10001×10000 pixels, more than the 100,000,000"
        ):
            read_image(content)
    with pytest.raises(ImageDecodeError, match="more pixels than the 100,000,000 that are allowed"):
        read_image(_png(struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0), b""))
    with pytest.raises(ImageDecodeError, match="more pixels than the 178,956,970 that are allowed"):
        read_image(
            _png(struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0), b""), max_pixels=10**9
        )


def test_limit_of_pixels_can_be_set(photo: np.ndarray) -> None:
    content = encoded(photo, "PNG")
    for read in (
        read_image,
        read_header,
        lambda image, **limit: resize_center_crop(image, 8, 8, **limit),
        lambda image, **limit: random_resized_crop(image, np.zeros(UNIFORMS_PER_CROP), 8, **limit),
        lambda image, **limit: thumbnail(image, (8, 8), **limit),
    ):
        read(content, max_pixels=HEIGHT * WIDTH)
        with pytest.raises(ImageDecodeError, match="more than"):
            read(content, max_pixels=HEIGHT * WIDTH - 1)


_BEGINNINGS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"RIFF0000WEBP",
]


@settings(deadline=None, max_examples=150, database=None, derandomize=True)
@given(beginning=st.sampled_from(_BEGINNINGS), rest=st.binary(max_size=300))
@pytest.mark.filterwarnings("ignore")
def test_random_bytes_raise_nothing_but_bad_image(beginning: bytes, rest: bytes) -> None:
    for read in (read_image, read_header):
        try:
            result = read(beginning + rest)
        except ImageDecodeError as error:
            assert error.reason and "\n" not in str(error)
        else:
            assert read is read_header or result.shape[2] == 3


@settings(deadline=None, max_examples=150, database=None, derandomize=True)
@given(data=st.data(), kind=st.sampled_from([name for name in FORMATS if name != "HEIF"]))
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_raise_nothing_but_bad_image(data: st.DataObject, kind: str) -> None:
    content = bytearray(encoded(soft_photo(20, 24), kind))
    for _ in range(data.draw(st.integers(1, 5))):
        # Headers are at the beginning; the header of a TIFF is at the end.
        position = data.draw(st.integers(-len(content) // 2, min(60, len(content) - 1)))
        content[position] = data.draw(st.integers(0, 255))
    try:
        image = resize_center_crop(bytes(content), 16, 16, max_pixels=10**6)
        assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    except ImageDecodeError as error:
        assert error.reason


# --- The random crop ---------------------------------------------------------


def test_boxes_equal_torchvisions() -> None:
    """torchvision 0.29's RandomResizedCrop.get_params, changed to take these random numbers."""
    third = (3 / 4, 4 / 3)
    expected = [
        ((375, 500), (0.08, 1), third, (26, 159, 343, 303)),
        ((500, 375), (0.08, 1), third, (257, 7, 208, 261)),
        ((128, 128), (0.08, 1), third, (21, 20, 102, 88)),
        ((128, 128), (0.25, 1), third, (26, 9, 87, 103)),
        ((40, 900), (0.5, 1), third, (0, 423, 40, 53)),
        ((900, 41), (0.5, 1), third, (422, 0, 55, 41)),
        ((7, 5), (0.08, 1), third, (1, 0, 2, 2)),
        ((333, 1000), (0.9, 1), third, (0, 278, 333, 444)),
        ((300, 320), (1, 1), (0.5, 2), (0, 0, 300, 320)),
    ]
    rng = np.random.default_rng(5)
    for (height, width), scale, ratio, numbers in expected:
        box = crop_box(height, width, rng.random(UNIFORMS_PER_CROP), scale=scale, ratio=ratio)
        assert (box.top, box.left, box.height, box.width) == numbers


@settings(max_examples=200, database=None, derandomize=True)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    uniforms=st.lists(
        st.floats(0, 1, exclude_max=True), min_size=UNIFORMS_PER_CROP, max_size=UNIFORMS_PER_CROP
    ),
)
def test_box_is_within_the_image(height: int, width: int, uniforms: list[float]) -> None:
    box = crop_box(height, width, uniforms)
    numbers = (box.top, box.left, box.height, box.width)
    assert all(number == int(number) for number in numbers)
    assert box.top >= 0 and box.top + box.height <= height and box.height >= 1
    assert box.left >= 0 and box.left + box.width <= width and box.width >= 1


def test_boxes_have_the_requested_areas_ratios_and_positions() -> None:
    rng = np.random.default_rng(0)
    boxes = [
        crop_box(1000, 1000, rng.random(UNIFORMS_PER_CROP), scale=(0.1, 0.5)) for _ in range(2000)
    ]
    areas = np.array([box.height * box.width for box in boxes]) / 1e6
    ratios = np.log([box.width / box.height for box in boxes])
    assert 0.099 < areas.min() < 0.11 and 0.49 < areas.max() < 0.501
    assert abs(areas.mean() - 0.3) < 0.01  # uniform
    assert np.allclose([ratios.min(), ratios.max()], np.log([3 / 4, 4 / 3]), atol=0.01)
    assert abs(ratios.mean()) < 0.02  # log-uniform
    corners = [box.top / (1000 - box.height) for box in boxes]
    assert min(corners) < 0.01 and max(corners) > 0.99 and abs(np.mean(corners) - 0.5) < 0.03


@pytest.mark.parametrize(
    "uniforms", [[], [0.5] * 3, [0.5] * 5, [[0.5] * 4], [0, 0, 0, 1], [0, 0, -0.1, 0], [np.nan] * 4]
)
def test_invalid_crop_uniforms_are_refused(uniforms: list, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uniforms"):
        crop_box(10, 10, uniforms)
    with pytest.raises(ValueError, match="uniforms"):
        random_resized_crop(encoded(photo, "PNG"), uniforms, 8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_crop_equals_pillows_crop_and_resize(interpolation: str) -> None:
    pixels = soft_photo(90, 120)
    content = encoded(pixels, "PNG")
    for seed in range(8):
        uniforms = np.random.default_rng(seed).random(UNIFORMS_PER_CROP)
        box = crop_box(90, 120, uniforms)
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        expected = Image.fromarray(pixels).crop(area).resize((32, 32), _FILTERS[interpolation])
        image = random_resized_crop(content, uniforms, 32, interpolation=interpolation)
        np.testing.assert_array_equal(image, expected)


def test_scale_and_ratio_reach_the_crop() -> None:
    pixels = soft_photo(64, 64)
    image = random_resized_crop(
        encoded(pixels, "PNG"), np.zeros(UNIFORMS_PER_CROP), 64, scale=(1, 1), ratio=(1, 1)
    )
    np.testing.assert_array_equal(image, pixels)


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size() -> None:
    """The result differs a little from full decoding, which shows that the file was scaled."""
    pixels = soft_photo(900, 1200)
    content = encoded(pixels, "JPEG", quality=92)
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(6):
        uniforms = rng.random(UNIFORMS_PER_CROP)
        box = crop_box(900, 1200, uniforms, scale=(0.5, 1))
        area = (box.left, box.top, box.left + box.width, box.top + box.height)
        expected = np.array(whole.crop(area).resize((96, 96), _FILTERS["bilinear"]))
        image = random_resized_crop(content, uniforms, 96, scale=(0.5, 1))
        differences.append(difference(image, expected))
    assert min(differences) > 0 and max(differences) < 3


# --- The central crop --------------------------------------------------------


def _pillow_center(image: Image.Image, resize: int, crop: int, interpolation: str) -> np.ndarray:
    """Apply torchvision's Resize and CenterCrop."""
    width, height = image.size
    shorter = min(width, height)
    size = (int(resize * width / shorter), int(resize * height / shorter))
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    resized = image.resize(size, _FILTERS[interpolation])
    return np.array(resized.crop((left, top, left + crop, top + crop)))


@settings(deadline=None, max_examples=60, database=None, derandomize=True)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    crop=st.integers(4, 40),
    more=st.integers(0, 9),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_center_crop_equals_pillows(
    height: int, width: int, crop: int, more: int, interpolation: str
) -> None:
    image = Image.fromarray(soft_photo(150, 150)).crop((0, 0, width, height))
    expected = _pillow_center(image, crop + more, crop, interpolation)
    found = resize_center_crop(
        encoded(image, "PNG"), crop + more, crop, interpolation=interpolation
    )
    # Pillow rounds, and cuts off below 0 and above 255, after each axis, and begins with the one
    # that is less work: for the whole image and for a part of it these may differ. Bilinear weights
    # are not negative and sum to 1, so either order is within 1 of the unrounded value.
    assert difference(found, expected) <= 1
    if interpolation == "bilinear":
        assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(375, 500), (900, 1200), (1201, 803)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_center_crop_of_synthetic_jpegs(height: int, width: int, interpolation: str) -> None:
    content = encoded(soft_photo(height, width), "JPEG", quality=92)
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    found = resize_center_crop(content, 110, 96, interpolation=interpolation)
    assert difference(found, _pillow_center(whole, 110, 96, interpolation)) < 1


def test_center_crop_of_real_photos(repository: Path) -> None:
    folder = repository.parent / "shared" / "data" / "flowers"
    paths = sorted(folder.glob("*/*.jpg"))[::70]
    if not paths:
        pytest.skip("no real data here")
    for path, size in itertools.product(paths, (24, 64, 96)):
        with Image.open(path) as image:
            expected = _pillow_center(image.convert("RGB"), size + 8, size, "bilinear")
        assert difference(resize_center_crop(path, size + 8, size), expected) < 1


@pytest.mark.parametrize(("resize", "crop"), [(10, 11), (10, 0), (0, 0)])
def test_center_crop_refuses_invalid_sizes(resize: int, crop: int, photo: np.ndarray) -> None:
    with pytest.raises(ValueError, match="crop"):
        resize_center_crop(encoded(photo, "PNG"), resize, crop)


def test_thumbnail_squeezes_the_whole_image(photo: np.ndarray) -> None:
    expected = Image.fromarray(photo).resize((9, 8), _FILTERS["bilinear"])
    np.testing.assert_array_equal(thumbnail(encoded(photo, "PNG"), (8, 9)), expected)
