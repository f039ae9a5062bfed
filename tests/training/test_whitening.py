"""A first convolution that whitens patches of the training images, and does not train."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

import flax_resnet as fr
from flax_resnet.config import (
    AugmentConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    flatten,
    unflatten,
)
from flax_resnet.data import open_dataset
from flax_resnet.errors import UserError
from flax_resnet.training.whitening import whitening_kernel
from tests.tiny_net import TINY


def correlated_images(channels=3):
    """Smooth images, whose neighbouring pixels and channels are correlated."""
    random = np.random.default_rng(0)
    images = random.normal(size=(200, 12, 12, channels)).astype(np.float32)
    images = images + np.roll(images, 1, axis=1) + np.roll(images, 1, axis=2)
    return images + 2 * images.mean(axis=-1, keepdims=True) + 0.7


def outputs(images, kernel):
    """The convolution without padding, by JAX."""
    return np.asarray(
        jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )


@pytest.mark.parametrize(("size", "channels"), [(3, 3), (2, 3), (5, 1)])
def test_outputs_are_uncorrelated(size, channels):
    images = correlated_images(channels)
    width = 2 * size * size * channels
    kernel = whitening_kernel(images, size, width)
    assert kernel.shape == (size, size, channels, width) and kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., : width // 2], -kernel[..., width // 2 :])
    values = outputs(images, kernel[..., : width // 2]).reshape(-1, width // 2)
    # What airbench adds to the variances keeps those of the smallest below 1.
    np.testing.assert_allclose(np.cov(values.T), np.eye(width // 2), atol=0.03)


def test_a_narrow_stem_keeps_the_largest_variances():
    """The same as scikit-learn's principal components of patches, whose signs are arbitrary."""
    images = correlated_images()
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), (1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27)
    components = PCA(4, svd_solver="full").fit(patches).components_
    kernel = whitening_kernel(images, 3, 8).reshape(27, 8)[:, :4].T
    directions = kernel / np.linalg.norm(kernel, axis=1, keepdims=True)
    cosines = np.abs(directions @ components.T)
    np.testing.assert_allclose(cosines, np.eye(4), atol=1e-3)


def test_constant_images_have_a_finite_kernel():
    assert np.isfinite(whitening_kernel(np.full((4, 8, 8, 3), 0.5, np.float32), 3, 54)).all()


BASE = Config(
    model=TINY,
    data=DataConfig(name="digits", batch_size=256),
    augment=AugmentConfig(flip=False),
    # Decay on every parameter, so that a kernel that took part would shrink.
    optimizer=OptimizerConfig(name="sgdw", learning_rate=0.05, weight_decay=0.1, decay_all=True),
    epochs=2,
    ema_decay=0.9,
    whitened_stem=True,
    compile_cache=None,
)


@pytest.mark.slow
@pytest.mark.usefixtures("no_page")
def test_a_run_keeps_the_kernel_and_trains_the_rest(tmp_path):
    """Also if it is stopped and resumed."""
    fr.train(dataclasses.replace(BASE, workdir=str(tmp_path), max_steps=3))
    fr.train(dataclasses.replace(BASE, workdir=str(tmp_path)))
    classifier = fr.load(tmp_path)
    transform = classifier.info.transform
    images = open_dataset(BASE.data, BASE.augment).train.images
    normalised = (images.astype(np.float32) / 255 - transform.mean) / transform.std
    expected = whitening_kernel(normalised.astype(np.float32), 3, 8)
    kernel = classifier.variables["params"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-4)
    scale = np.asarray(classifier.variables["params"]["bn1"]["scale"])
    assert (scale < 0.999).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.stem": "deep"}, "the stem deep has three convolutions"),
        ({"model.standardized_kernels": True}, "standardized-kernels changes every kernel"),
        ({"model.widths": (7,)}, "7 channels.* an even number up to 18: set --model.stem-width"),
        ({"model.stem_width": 20}, "20 channels, but patches of 3x3x1 give .* up to 18"),
        (
            {
                "model.name": "resnet20",
                "model.stage_sizes": None,
                "model.widths": None,
                "transfer.weights": "resnet20/cifar10",
            },
            "comes with --transfer.weights",
        ),
    ],
)
def test_a_stem_that_cannot_be_whitened_is_refused(tmp_path, changes, reason):
    config = unflatten(flatten(BASE) | {"workdir": str(tmp_path / "run")} | changes)
    with pytest.raises(UserError, match=reason) as error:
        fr.train(config)
    assert str(error.value).startswith("--whitened-stem: ")
    assert list(tmp_path.iterdir()) == []


def test_photos_that_are_read_from_files_are_refused(tmp_path, noise_photos):
    data = DataConfig(name="folder", dir=str(noise_photos), image_size=16, batch_size=8)
    config = dataclasses.replace(BASE, data=data, workdir=str(tmp_path / "run"))
    with pytest.raises(UserError, match="--whitened-stem: the images are not in memory"):
        fr.train(config)
