"""Crops, mirroring and preprocessing, compared with NumPy."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_resnet.data.augment import Augmentation, Mixing, Preprocessing

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


def random_images(*shape: int) -> np.ndarray:
    """Pixels from 1 on, so that a zero is always padding."""
    return np.random.default_rng(0).integers(1, 256, shape, np.uint8)


def candidates(image: np.ndarray, padding: int) -> np.ndarray:
    """Return all crops of the padded image and its mirror, ``[2p+1, 2p+1, 2, H, W, C]``."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    offsets = range(2 * padding + 1)
    windows = [[padded[y : y + height, x : x + width] for x in offsets] for y in offsets]
    return np.stack([windows, np.flip(windows, axis=-2)], axis=2)


compiled = functools.cache(jax.jit)


def augment(
    augmentation: Augmentation, images: np.ndarray, index: np.ndarray, seed: int = 0
) -> np.ndarray:
    return np.asarray(compiled(augmentation)(jax.random.key(seed), images, index))


@pytest.mark.parametrize(
    ("shape", "padding", "flip"),
    [((6, 5, 3), 2, True), ((8, 8, 1), 1, False), ((4, 7, 3), 0, True)],
)
def test_outputs_are_windows_and_all_of_them_occur(
    shape: tuple[int, int, int], padding: int, flip: bool
) -> None:
    image = random_images(*shape)
    count = 2000
    images = np.broadcast_to(image, (count, *shape))
    outputs = augment(Augmentation(padding, flip), images, np.arange(count))
    assert outputs.dtype == np.uint8
    assert outputs.shape == images.shape
    windows = candidates(image, padding).reshape(-1, image.size)
    fits = (outputs.reshape(count, 1, -1) == windows).all(axis=2)  # [count, candidates]
    assert (fits.sum(axis=1) == 1).all()
    seen = fits.sum(axis=0).reshape((2 * padding + 1) ** 2, 2)
    if not flip:
        assert (seen[:, 1] == 0).all()
        seen = seen[:, :1]
    expected = count / seen.size
    assert (abs(seen - expected) < 5.5 * np.sqrt(expected)).all(), seen  # all occur equally often


def test_crop_and_mirror_of_the_largest_usual_image() -> None:
    """As for CIFAR-10: distinct 32 × 32 images, padding 4."""
    images = random_images(64, 32, 32, 3)
    outputs = augment(Augmentation(4, True), images, np.arange(64))
    offsets, mirrored = set(), set()
    for image, output in zip(images, outputs, strict=True):
        fits = (candidates(image, 4) == output).all(axis=(3, 4, 5))
        ((y, x, mirror),) = np.argwhere(fits).tolist()
        offsets.add((y, x))
        mirrored.add(mirror)
    assert len(offsets) > 32
    assert mirrored == {0, 1}


def test_offsets_and_mirroring_are_independent() -> None:
    count, padding = 4000, 1
    image = random_images(4, 4, 1)
    images = np.broadcast_to(image, (count, 4, 4, 1))
    outputs = augment(Augmentation(padding, True), images, np.arange(count), seed=3)
    fits = (outputs[:, None] == candidates(image, padding).reshape(-1, 4, 4, 1)).all((2, 3, 4))
    y, x, mirror = np.unravel_index(fits.argmax(axis=1), (3, 3, 2))
    correlations = np.corrcoef([y, x, mirror])[np.triu_indices(3, 1)]
    assert (abs(correlations) < 5 / np.sqrt(count)).all()


def test_without_augmentations_nothing_changes() -> None:
    images = random_images(5, 4, 4, 3)
    np.testing.assert_array_equal(augment(Augmentation(), images, np.arange(5)), images)


def test_image_does_not_depend_on_the_rest_of_the_batch() -> None:
    augmentation = Augmentation(2, True)
    images = random_images(8, 6, 6, 3)
    index = np.arange(8)
    whole = augment(augmentation, images, index)
    halves = [augment(augmentation, images[part], index[part]) for part in (index < 4, index >= 4)]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    # It depends neither on the order within the batch nor on the other images.
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_array_equal(augment(augmentation, images[order], index[order]), whole[order])
    others = np.where(index[:, None, None, None] == 5, images, 0).astype(np.uint8)
    moved = np.where(index == 5, index, index + 100)
    np.testing.assert_array_equal(augment(augmentation, others, moved)[5], whole[5])


def test_index_and_key_both_matter() -> None:
    image = random_images(8, 8, 3)
    images = np.broadcast_to(image, (16, 8, 8, 3))
    augmentation = Augmentation(4, True)
    first = augment(augmentation, images, np.arange(16))
    assert len({output.tobytes() for output in first}) > 8
    for other in (
        augment(augmentation, images, np.arange(16), seed=1),
        augment(augmentation, images, np.arange(16, 32)),
    ):
        assert (first != other).any(axis=(1, 2, 3)).sum() > 8
    same = augment(augmentation, images, np.full(16, 7))
    assert len({output.tobytes() for output in same}) == 1


# --- preprocessing -----------------------------------------------------------


def assert_same_where_float64_is_on(results: Callable[[], list[jax.Array]]) -> None:
    plain = results()
    with jax.enable_x64(True):
        for one, other in zip(plain, results(), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_float64_does_not_change_what_is_drawn() -> None:
    """Crops, grey images and erased boxes were others."""
    augmentation = Augmentation(crop_padding=2, grayscale=0.5, random_erasing=0.5)
    images = random_images(16, 8, 8, 3)

    def results() -> list[jax.Array]:
        augmented = jax.jit(augmentation)(jax.random.key(0), images, np.arange(16))
        return [augmented, Preprocessing(MEAN, STD)(images)]

    assert_same_where_float64_is_on(results)


@pytest.mark.slow
def test_float64_does_not_change_the_choice_of_cutmix() -> None:
    images, targets = np.ones((4, 8, 8, 3), np.float32), np.eye(4, dtype=np.float32)
    mix = jax.jit(Mixing(0.2, 1.0))
    assert_same_where_float64_is_on(
        lambda: [mix(jax.random.key(n), images, targets)[1] for n in range(4)]
    )


def enlarge_axis(pixels: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Interpolate linearly between pixel centres (n + 0.5), and repeat the border outside."""
    old = pixels.shape[axis]
    position = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, old - 1)
    shape = [1] * pixels.ndim
    shape[axis] = size
    weight = (position - below).reshape(shape)
    return pixels.take(below, axis) * (1 - weight) + pixels.take(above, axis) * weight


def normalised(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    return (pixels / 255 - np.float64(mean)) / np.float64(std)


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.1307,), (0.3081,)), ((0.0,), (1.0,))])
def test_preprocessing_against_float64(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    # Every pixel value in every channel.
    channels = [np.random.default_rng(n).permutation(256) for n in range(len(mean))]
    images = np.stack(channels, axis=-1).astype(np.uint8).reshape(4, 8, 8, len(mean))
    output = jax.jit(Preprocessing(mean, std))(images)
    assert output.dtype == jnp.float32
    assert output.shape == images.shape
    np.testing.assert_allclose(output, normalised(images, mean, std), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((8, 8), 9), ((8, 8), 32), ((5, 8), 13), ((1, 2), 7)])
def test_enlargement_is_half_pixel_bilinear(shape: tuple[int, int], size: int) -> None:
    images = random_images(2, *shape, 3)
    output = jax.jit(Preprocessing(MEAN, STD, size))(images)
    assert output.dtype == jnp.float32
    assert output.shape == (2, size, size, 3)
    enlarged = enlarge_axis(enlarge_axis(images.astype(np.float64), size, 1), size, 2)
    np.testing.assert_allclose(output, normalised(enlarged, MEAN, STD), atol=2e-5)


def test_the_original_size_changes_nothing() -> None:
    images = random_images(2, 8, 8, 3)
    output = Preprocessing(MEAN, STD, 8)(jnp.asarray(images))
    np.testing.assert_allclose(output, normalised(images, MEAN, STD), rtol=1e-6, atol=1e-6)


def test_reduction_is_antialiased() -> None:
    """Stripes finer than the new pixels become grey; sampling without antialiasing would alias."""
    images = np.zeros((1, 32, 32, 1), np.uint8)
    images[:, :, ::2] = 254
    output = Preprocessing((0.0,), (1.0,), 8)(jnp.asarray(images))
    assert output.shape == (1, 8, 8, 1)
    np.testing.assert_allclose(output[:, :, 1:-1], 127 / 255, atol=1e-5)
    constant = Preprocessing((0.0,), (1.0,), 8)(jnp.full((1, 32, 32, 1), 51, jnp.uint8))
    np.testing.assert_allclose(constant, 0.2, atol=1e-6)


def test_mirrored_padding_is_numpys_reflect() -> None:
    image, count = random_images(6, 5, 3), 400
    images = np.broadcast_to(image, (count, *image.shape))
    outputs = augment(Augmentation(2, crop_fill="mirror"), images, np.arange(count))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
    windows = [padded[y : y + 6, x : x + 5] for y in range(5) for x in range(5)]
    fits = (outputs[:, None] == np.stack(windows)).all((2, 3, 4))
    assert (fits.sum(1) == 1).all() and fits.any(0).all()
    # The same crops as with constant padding: only the pixels outside differ.
    constant = augment(Augmentation(2), images, np.arange(count))
    inside = constant > 0
    np.testing.assert_array_equal(outputs[inside], constant[inside])
