"""Builds the model, the augmentation and the preprocessing that the settings describe."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ..config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, ModelConfig
from ..data import Augmentation, Dataset, Mixing, Preprocessing, Split
from ..errors import UserError
from ..models import ResNet, create_model
from ..weights import PretrainedInfo


def build_augmentation(
    config: AugmentConfig, image_size: int | None, dataset: Dataset
) -> tuple[Augmentation, Mixing | None]:
    """The augmentation of each image on the device, and the mixing of pairs of them (or None)."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del fields["repeats"]  # concerns the order of images, not the augmentation of one
    mix = Mixing(fields.pop("mixup_alpha"), fields.pop("cutmix_alpha"))
    crop = image_size or dataset.image_shape[0]
    # Streamed images are cropped where they are decoded.
    crops_here = fields.pop("random_resized_crop") and not dataset.train.streams
    augment = Augmentation(random_resized_crop=crop if crops_here else None, **fields)
    return augment, mix if mix != Mixing() else None


def build_model(config: ModelConfig, num_classes: int) -> ResNet:
    """The Linen module that the settings describe.

    Raises:
        UserError: unknown name or option; the message holds the nearest ones.
    """
    switches = {
        name: value for name, value in dataclasses.asdict(config).items() if value is not None
    }
    if hidden := switches.get("hidden"):
        switches["hidden"] = tuple(hidden)  # read from JSON it is a list
    name = switches.pop("name")
    dtype = jnp.dtype(switches.pop("dtype"))
    try:
        return create_model(name, num_classes=num_classes, dtype=dtype, **switches)
    except ValueError as error:
        raise UserError(f"--model: {error}", exit_code=2) from error


def build_preprocessing(
    dataset: Dataset, image_size: int | None, info: PretrainedInfo | None = None
) -> Preprocessing:
    """From stored pixels to the model's input.

    Images are normalised like those of the starting weights; without starting weights, by the
    statistics of the training images, or of ImageNet where the images are streamed. Images in
    memory are also resized on the device.

    Args:
        dataset: The images.
        image_size: Height and width that the model sees; None for the stored size.
        info: That of the starting weights, if there are any.
    """
    in_memory = isinstance(dataset.train, Split)
    size = image_size if in_memory else None
    if info is not None:
        return Preprocessing(info.mean, info.std, size)
    if isinstance(dataset.train, Split):
        return Preprocessing(*channel_statistics(dataset.train.images), size)
    return Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images ``[N, H, W, C]``, from 0 to 1."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        fractions = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float(fractions @ levels)
        means.append(round(mean, 6))
        stds.append(round(float(np.sqrt(fractions @ (levels - mean) ** 2)), 6))
    return tuple(means), tuple(stds)
