"""A first convolution that whitens patches of the training images, and does not train.

tysam-code/hlb-CIFAR10 begins with it, and so does airbench (Jordan 2024, "94% on CIFAR-10 in 3.29
Seconds on a Single GPU", section 3.2), where it saves more epochs than any other setting.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from ..models.resnet import DEEP_STEMS, STEMS, ResNet

PIXELS = 5000 * 32 * 32  # airbench takes 5,000 images of CIFAR-10
PIXELS_AT_ONCE = 2**18
EPSILON = 5e-4  # added to the variances, as airbench does


def check_whitened_stem(
    model: ResNet, channels: int, *, starts_from_weights: bool, streams: bool
) -> None:
    """Check that the model's first convolution can be computed from the training images.

    Args:
        model: The model that is to train.
        channels: Those of the images.
        starts_from_weights: Whether the model's weights come from elsewhere.
        streams: Whether the images are read from files, batch by batch.

    Raises:
        UserError: It cannot.
    """
    reasons = {
        "the first convolution comes with --transfer.weights": starts_from_weights,
        "the images are not in memory": streams,
        f"the stem {model.stem} has three convolutions": model.stem in DEEP_STEMS,
        "--model.standardized-kernels changes every kernel": model.standardized_kernels,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"--whitened-stem: {reason}: leave out one of them.", exit_code=2)
    size, _ = STEMS[model.stem]
    width, most = model.stem_width or model.widths[0], 2 * size * size * channels
    if width % 2 or width > most:
        raise UserError(
            f"--whitened-stem: the stem has {width} channels, but patches of {size}x{size}x"
            f"{channels} give an even number up to {most}: set --model.stem-width.",
            exit_code=2,
        )


def with_whitened_stem(
    params: Any, preprocess: Callable[[Any], Any], images: npt.NDArray[np.uint8]
) -> Any:
    """The parameters with a first convolution that whitens.

    Args:
        params: Those of a ``ResNet`` whose stem is one convolution.
        preprocess: Turns images into the model's input, normalised ``[N, H, W, C]``.
        images: The training images, uint8 ``[N, H, W, C]``; the first of them are used.
    """
    size, _, _, width = params["conv1"]["kernel"].shape
    first = images[: max(PIXELS // images[0, ..., 0].size, 1)]
    kernel = whitening_kernel(np.asarray(preprocess(first)), size, width)
    return params | {"conv1": params["conv1"] | {"kernel": kernel}}


def whitening_kernel(
    images: npt.NDArray[np.float32], size: int, width: int
) -> npt.NDArray[np.float32]:
    """The kernel of a convolution whose outputs on these images are uncorrelated.

    Its filters are the eigenvectors of the covariance of all patches, those of the largest
    variance first, each divided by its standard deviation; then the same with the opposite sign,
    so that a ReLU loses nothing.

    Args:
        images: Normalised images ``[N, H, W, C]``, as the model sees them.
        size: Height and width of the kernel.
        width: Number of filters, even, at most twice the number of values in a patch.

    Returns:
        Float32 ``[size, size, C, width]``.
    """
    variances, vectors = np.linalg.eigh(_patch_covariance(images, size))
    chosen = np.argsort(variances)[::-1][: width // 2]
    filters = vectors[:, chosen] / np.sqrt(np.maximum(variances[chosen], 0) + EPSILON)
    # An eigenvector's sign is arbitrary: without a rule, processors would differ in it.
    filters *= np.sign(filters[np.abs(filters).argmax(axis=0), range(width // 2)])
    kernel = np.concatenate([filters, -filters], axis=1).astype(np.float32)
    return kernel.reshape(size, size, images.shape[-1], width)


def _patch_covariance(images: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float64]:
    """Covariance ``[size * size * C] * 2`` of all patches, in the order of a kernel's axes."""
    values = size * size * images.shape[-1]
    total, products, number = np.zeros(values), np.zeros((values, values)), 0
    step = max(PIXELS_AT_ONCE // images[0, ..., 0].size, 1)
    for start in range(0, len(images), step):
        some = images[start : start + step]
        windows = np.lib.stride_tricks.sliding_window_view(some, (size, size), (1, 2))
        # [N, H', W', C, size, size]
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, values)
        total += patches.sum(axis=0, dtype=np.float64)
        products += patches.T @ patches
        number += len(patches)
    mean = total / number
    return products / number - np.outer(mean, mean)
