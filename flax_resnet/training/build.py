"""From sections of a config to the model, the augmentation and the preprocessing."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ..config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, ModelConfig
from ..data import Augmentation, Dataset, Mixing, Preprocessing, Split
from ..errors import UserError
from ..models import create_model
from ..weights import PretrainedInfo


def build_augmentation(
    config: AugmentConfig, image_size: int | None, dataset: Dataset
) -> tuple[Augmentation, Mixing | None]:
    """What is done to a batch on the device: to each image, and to pairs of them."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del fields["repeats"]  # of the order of images, not of what is done to one
    mix = Mixing(fields.pop("mixup_alpha"), fields.pop("cutmix_alpha"))
    crop = image_size or dataset.image_shape[0]
    # Images that stream are cropped where they are decoded.
    wanted = fields.pop("random_resized_crop") and not dataset.train.streams
    augment = Augmentation(random_resized_crop=crop if wanted else None, **fields)
    return augment, mix if mix != Mixing() else None


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """The Linen module a config describes.

    Raises:
        UserError: unknown name or option; the message holds the nearest ones.
    """
    switches = {
        name: value for name, value in dataclasses.asdict(config).items() if value is not None
    }
    if hidden := switches.get("hidden"):
        switches["hidden"] = tuple(hidden)  # of a run's folder it is a list
    name = switches.pop("name")
    dtype = jnp.dtype(switches.pop("dtype"))
    try:
        return create_model(name, num_classes=num_classes, dtype=dtype, **switches)
    except ValueError as error:
        raise UserError(f"--model: {error}", exit_code=2) from error


def build_preprocessing(
    dataset: Dataset, image_size: int | None, info: PretrainedInfo | None = None
) -> Preprocessing:
    """Normalisation as the starting weights had it; without any, by the training images' own
    statistics, or, where they stream, by ImageNet's. Images in memory are resized too."""
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
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float(share @ levels)
        means.append(round(mean, 6))
        stds.append(round(float(np.sqrt(share @ (levels - mean) ** 2)), 6))
    return tuple(means), tuple(stds)
