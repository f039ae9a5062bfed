"""Builds the augmentation and the transform that the settings describe."""

import dataclasses

import numpy as np

from ..config import AugmentConfig
from ..data import Augmentation, Dataset, Mixing, Split
from ..errors import UserError
from ..transform import EvalTransform


def build_augmentation(
    config: AugmentConfig, image_size: int | None, dataset: Dataset
) -> tuple[Augmentation, Mixing | None]:
    """The augmentation of each image on the device, and the mixing of pairs of them (or None)."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del fields["repeats"]  # concerns the order of images, not the augmentation of one
    if fields.pop("alternating_flip"):
        fields["flip"] = False  # images are mirrored where batches of them are made
    mix = Mixing(fields.pop("mixup_alpha"), fields.pop("cutmix_alpha"))
    crop = image_size or dataset.image_shape[0]
    # Streamed images are cropped where they are decoded.
    crops_here = fields.pop("random_resized_crop") and not dataset.train.streams
    augment = Augmentation(random_resized_crop=crop if crops_here else None, **fields)
    return augment, mix if mix != Mixing() else None


def model_channels(wanted: int | None, stored: int, weights: int | None) -> int:
    """Return the number of channels that the model of a run takes.

    Grey images get the channels of colour photos by repetition, where the model takes those.

    Args:
        wanted: The setting ``model.in_channels``.
        stored: Channels of the data set's images.
        weights: Channels of the starting weights, or None.

    Raises:
        UserError: The images have others.
    """
    if wanted is None:
        return 3 if (stored, weights) == (1, 3) else stored
    if wanted != stored and (stored, wanted) != (1, 3):
        raise UserError(
            f"--model.in-channels {wanted}: the images have {stored} channels; leave it out, or "
            f"give images [N, H, W, {wanted}] in an .npz.",
            exit_code=2,
        )
    return wanted


def build_transform(
    dataset: Dataset,
    image_size: int | None,
    start: EvalTransform | None = None,
    channels: int | None = None,
) -> EvalTransform:
    """Return the transform of a data set with the normalisation that the model trains with.

    Args:
        dataset: Its images; those in memory are resized to ``image_size`` on the device.
        image_size: Height and width that the model sees; None for the stored size.
        start: Transform of the starting weights, whose normalisation is kept. Without it, images
            in memory are normalised by their own statistics, image files by ImageNet's.
        channels: Those that the model takes; by default as many as the images have.
    """
    transform = dataset.transform
    if isinstance(dataset.train, Split):
        mean, std = channel_statistics(dataset.train.images)
        transform = dataclasses.replace(transform, mean=mean, std=std, model_size=image_size)
    if start is not None:
        transform = dataclasses.replace(transform, mean=start.mean, std=start.std)
    if channels in (None, len(transform.mean)):
        return transform
    return dataclasses.replace(transform.with_channels(channels), channels=transform.channels)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images ``[N, H, W, C]``, from 0 to 1.

    That of a constant channel, such as an unused alpha, is 1, so that normalised it is 0.
    """
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        fractions = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float(fractions @ levels)
        means.append(round(mean, 6))
        stds.append(round(float(np.sqrt(fractions @ (levels - mean) ** 2)), 6) or 1.0)
    return tuple(means), tuple(stds)
