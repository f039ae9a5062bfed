"""Evaluation sees the photos that torchvision and Pillow see, by every road.

``pytest -s tests/data/test_evaluation_photos.py`` shows the figures, in levels of 255. torchvision
crops what Pillow resized whole; here only what the crop shows is computed, large JPEGs are decoded
at a fraction of their size, and of images in memory the device does the work.
"""

import jax
import numpy as np
import pytest
from PIL import Image

from flax_resnet.data.augment import resizing
from flax_resnet.data.images.files import ImageFiles
from flax_resnet.data.images.reading import read_image
from flax_resnet.data.images.records import Records

# Shorter side, then the middle: torchvision's V1 and V2, and 256/224 of small nets.
SIZES = [(256, 224), (232, 224), (73, 64)]


def made_photo(seed, height, width):
    """A made photo: power falls with frequency as in real ones, down to the single pixel."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / width
    spectrum = np.fft.fft2(rng.normal(size=(3, height, width))) / frequency**1.2
    values = np.real(np.fft.ifft2(spectrum)).transpose(1, 2, 0)
    levels = 128 + 55 * values / values.std(axis=(0, 1))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(request, tmp_path_factory):
    """Paths of JPEG files: of every 50th flower, or made photos of usual sizes."""
    if request.param == "flowers":
        root = request.getfixturevalue("real_data")("flowers")
        return sorted((root / "flowers").glob("*/*.jpg"))[::50]
    folder = tmp_path_factory.mktemp("made")
    for number, size in enumerate([(375, 500), (500, 333), (900, 1200), (241, 250)]):
        made_photo(number, *size).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.iterdir())


def pillows(path, resize, crop):
    """What torchvision's Resize and CenterCrop do to a PIL image, by Pillow alone."""
    image = Image.open(path).convert("RGB")
    shorter = min(image.size)
    size = tuple(int(resize * side / shorter) for side in image.size)
    left, top = (round((side - crop) / 2) for side in size)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + crop, top + crop)))


def streamed(paths, resize, crop):
    records = Records(tuple(map(str, paths)), np.zeros(len(paths), np.int32))
    with ImageFiles(records, size=crop, resize=resize, workers=2) as files:
        return files.gather(np.arange(len(paths)))["image"]


def on_device(paths, resize, crop):
    centred = jax.jit(resizing.resize_center_crop, static_argnums=(1, 2))
    images = [read_image(path)[None] for path in paths]
    return np.concatenate([np.asarray(centred(image, resize, crop)) for image in images])


def apart(road, ours, expected):
    """Mean distance of the worst photo and of all, in levels; also printed."""
    distances = np.abs(ours.astype(int) - expected).mean(axis=(1, 2, 3))
    print(f"{road}: {distances.mean():.3f} of 255 on average, {distances.max():.3f} at worst")
    return distances


@pytest.mark.parametrize("photos", ["flowers", "made"], indirect=True)
@pytest.mark.parametrize(("resize", "crop"), SIZES)
def test_photos_are_within_a_level_of_pillows(photos, resize, crop):
    expected = np.stack([pillows(path, resize, crop) for path in photos])
    assert expected.std() > 30
    name = f"streamed, {len(photos)} photos, {resize} to {crop}, from Pillow"
    assert apart(name, streamed(photos, resize, crop), expected).max() <= 1


@pytest.mark.parametrize("photos", ["flowers", "made"], indirect=True)
def test_photos_in_memory_are_within_a_level_of_pillows(photos):
    two = photos[:2]  # a program is compiled for each size
    expected = np.stack([pillows(path, 73, 64) for path in two])
    assert (
        apart("on the device, 73 to 64, from Pillow", on_device(two, 73, 64), expected).max() <= 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("photos", ["flowers", "made"], indirect=True)
@pytest.mark.parametrize(("resize", "crop"), SIZES)
def test_photos_are_within_a_level_of_torchvisions(photos, resize, crop):
    pytest.importorskip("torch")
    torchvision = pytest.importorskip("tests.weights.torchvision_import").torchvision
    steps = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(resize), torchvision.transforms.CenterCrop(crop)]
    )
    images = [Image.open(path).convert("RGB") for path in photos]
    expected = np.stack([np.asarray(steps(image)) for image in images])
    name = f"streamed, {len(photos)} photos, {resize} to {crop}, from torchvision"
    assert apart(name, streamed(photos, resize, crop), expected).max() <= 1
    # torchvision itself, on tensors in place of images, is this far from itself on images.
    pil_to_tensor = torchvision.transforms.functional.pil_to_tensor
    tensors = np.stack([steps(pil_to_tensor(image)).permute(1, 2, 0).numpy() for image in images])
    apart("  torchvision's tensors", tensors, expected)
