"""Evaluation images, compared with torchvision's and Pillow's, from files and from memory.

``pytest -s`` with this file shows the differences, in levels of 255. torchvision crops the whole
resized image of Pillow. We compute only the pixels of the crop, decode large JPEGs at a fraction of
their size, and resize images in memory on the device.
"""

import jax
import numpy as np
import pytest
from PIL import Image

from flax_resnet.data.augment import resizing
from flax_resnet.data.images import ImageFiles, Records, read_image

# Shorter side, then center crop: torchvision's V1 and V2, and 256/224 of small models.
SIZES = [(256, 224), (232, 224), (73, 64)]


def made_photo(seed, height, width):
    """Return a synthetic photo, whose power falls with the frequency as in real photos."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / width
    spectrum = np.fft.fft2(rng.normal(size=(3, height, width))) / frequency**1.2
    values = np.real(np.fft.ifft2(spectrum)).transpose(1, 2, 0)
    levels = 128 + 55 * values / values.std(axis=(0, 1))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(request, tmp_path_factory):
    """Paths of JPEG files: every 50th flower, or synthetic photos of usual sizes."""
    if request.param == "flowers":
        root = request.getfixturevalue("real_data")("flowers")
        return sorted((root / "flowers").glob("*/*.jpg"))[::50]
    folder = tmp_path_factory.mktemp("synthetic")
    for number, size in enumerate([(375, 500), (500, 333), (900, 1200), (241, 250)]):
        made_photo(number, *size).save(folder / f"{number}.jpg", quality=90)
    return sorted(folder.iterdir())


def pillows(path, resize, crop):
    """Apply torchvision's Resize and CenterCrop to a PIL image, with Pillow alone."""
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


def apart(name, ours, expected):
    """Return and print the mean distance of the worst photo and of all photos, in levels."""
    distances = np.abs(ours.astype(int) - expected).mean(axis=(1, 2, 3))
    print(f"{name}: {distances.mean():.3f} of 255 on average, {distances.max():.3f} at worst")
    return distances


@pytest.mark.parametrize("photos", ["flowers", "synthetic"], indirect=True)
@pytest.mark.parametrize(("resize", "crop"), SIZES)
def test_photos_are_within_one_level_of_pillow(photos, resize, crop):
    expected = np.stack([pillows(path, resize, crop) for path in photos])
    assert expected.std() > 30
    name = f"streamed, {len(photos)} photos, {resize} to {crop}, from Pillow"
    assert apart(name, streamed(photos, resize, crop), expected).max() <= 1


@pytest.mark.parametrize("photos", ["flowers", "synthetic"], indirect=True)
def test_photos_in_memory_are_within_one_level_of_pillow(photos):
    two = photos[:2]  # one program is compiled for each size
    expected = np.stack([pillows(path, 73, 64) for path in two])
    assert (
        apart("on the device, 73 to 64, from Pillow", on_device(two, 73, 64), expected).max() <= 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("photos", ["flowers", "synthetic"], indirect=True)
@pytest.mark.parametrize(("resize", "crop"), SIZES)
def test_photos_are_within_one_level_of_torchvision(photos, resize, crop):
    pytest.importorskip("torch")
    torchvision = pytest.importorskip("tests.weights.torchvision_import").torchvision
    steps = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(resize), torchvision.transforms.CenterCrop(crop)]
    )
    images = [Image.open(path).convert("RGB") for path in photos]
    expected = np.stack([np.asarray(steps(image)) for image in images])
    name = f"streamed, {len(photos)} photos, {resize} to {crop}, from torchvision"
    assert apart(name, streamed(photos, resize, crop), expected).max() <= 1
    # torchvision's results for tensors differ by this much from its results for images.
    pil_to_tensor = torchvision.transforms.functional.pil_to_tensor
    tensors = np.stack([steps(pil_to_tensor(image)).permute(1, 2, 0).numpy() for image in images])
    apart("  torchvision's tensors", tensors, expected)
