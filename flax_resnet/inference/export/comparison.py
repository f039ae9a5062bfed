"""Comparison of an exported model with its source, on real images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ...data.images import ImageDecodeError, fit_image, read_image
from ...errors import UserError
from ...transform import EvalTransform
from ..inputs import open_images
from ..predict import to_probabilities
from .onnx_graph import import_onnx, open_session
from .onnx_pixels import LEVELS

if TYPE_CHECKING:
    from ..classifier import Classifier

MOST_DIFFERENCE = 1e-4
"""Largest difference of a logit, relative to the largest logit, between two programs that compute
the same in float32: they sum in another order."""
MOST_PROBABILITY = 1e-5
MOST_LEVELS = 0.5  # on average; rounding between the axes, which Pillow does, is less

_CROP = (288, 384)  # of scikit-learn's two photographs


@dataclass(frozen=True)
class Comparison:
    """How near the outputs of an exported model are to those of its source.

    Attributes:
        images: Number of images.
        difference: Largest absolute difference of a logit, divided by the largest logit.
        agreement: Fraction of the images with the same most probable class.
    """

    images: int
    difference: float
    agreement: float


def compare(expected: np.ndarray, computed: np.ndarray) -> Comparison:
    """Compare logits ``[N, K]``.

    Raises:
        UserError: They are not the same up to rounding.
    """
    scale = max(float(np.abs(expected).max()), 1e-30)
    differences = np.abs(computed - expected)
    same = expected.argmax(1) == computed.argmax(1)
    done = Comparison(len(expected), float(differences.max() / scale), float(same.mean()))
    # Two classes whose logits differ by less than the rounding may change places.
    top = np.sort(expected, axis=1)[:, ::-1]
    tied = top[:, 0] - top[:, min(1, top.shape[1] - 1)] <= 2 * MOST_DIFFERENCE * scale
    if not done.difference <= MOST_DIFFERENCE or not (same | tied).all():
        raise UserError(
            "The exported model does not compute what its source does: the largest difference of a "
            f"logit is {done.difference:.3g} of the largest logit, and {done.agreement:.0%} of "
            f"{done.images} images get the same class. Nothing is written."
        )
    return done


def logits_of(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """Return logits of stored pixels, in batches of one and of all the others."""
    program, variables = classifier._logits_program()
    parts = [pixels[:1], pixels[1:]] if len(pixels) > 1 else [pixels]
    return np.concatenate([np.asarray(program(variables, part)) for part in parts])


def real_pixels(transform: EvalTransform, photos: Sequence[Any] | None) -> np.ndarray:
    """Return real images as stored pixels, uint8 ``[N, height, width, channels]``.

    Args:
        transform: How an image becomes stored pixels.
        photos: Files or images; None for parts of the two photographs that scikit-learn brings.

    Raises:
        UserError: No image can be read.
    """
    source, _ = open_images(sample_photos() if photos is None else list(photos), transform)
    if photos is None and transform.channels not in (1, 3):
        grey = transform.with_channels(1)
        images = [fit_image(photo[..., :1], grey) for photo in sample_photos()]
        return np.repeat(np.stack(images), transform.channels, axis=3)
    batch = source.gather(np.arange(len(source)))
    pixels = batch["image"][batch.get("mask", np.ones(len(source), bool))]
    if not len(pixels):
        raise UserError(f"None of the {len(source)} photos can be read: name others.")
    return pixels


def sample_photos() -> list[np.ndarray]:
    """Return 16 parts of the two photographs of scikit-learn, uint8 ``[H, W, 3]``."""
    from sklearn.datasets import load_sample_images

    height, width = _CROP
    return [
        np.ascontiguousarray(image[top : top + height, left : left + width])
        for image in load_sample_images().images
        for top in (0, 139)
        for left in (0, 85, 170, 256)
    ]


def check_same(
    classifier: Classifier,
    probabilities: Callable[[np.ndarray], np.ndarray],
    photos: Sequence[Any] | None,
) -> None:
    """Check the probabilities that a file gives for stored pixels, uint8 ``[N, H, W, C]``.

    Raises:
        UserError: They are not the classifier's.
    """
    pixels = real_pixels(classifier.transform, photos)
    expected = to_probabilities(classifier, logits_of(classifier, pixels))
    computed = probabilities(pixels)
    difference = float(np.abs(computed - expected).max())
    if not difference <= MOST_PROBABILITY:
        raise UserError(
            f"The exported model gives other probabilities than its source ({difference:.3g} "
            "apart). Nothing is written."
        )


def resize_difference(
    classifier: Classifier, path: Path, photos: Sequence[Any] | None
) -> dict[str, str]:
    """Measure how a file's resizing differs from Pillow's, on photos of their own sizes.

    Returns:
        Facts for a report: levels of 255, and probabilities.

    Raises:
        UserError: They differ by more than resizing explains.
    """
    onnx = import_onnx()
    proto = onnx.load(path)
    info = onnx.helper.make_tensor_value_info
    proto.graph.output.append(info(LEVELS, onnx.TensorProto.FLOAT, None))
    session = open_session(proto.SerializeToString())
    transform = classifier.transform
    levels, probabilities, expected_levels = [], [], []
    for photo in whole_photos(transform, photos):
        outputs = session.run(None, {"images": photo[None]})
        probabilities.append(outputs[0][0])
        levels.append(outputs[1][0].transpose(1, 2, 0))
        expected_levels.append(fit_image(photo, transform))
    pixels = np.stack(expected_levels)
    apart = np.abs(np.stack(levels) - pixels)
    expected = to_probabilities(classifier, logits_of(classifier, pixels))
    changed = float(np.abs(np.stack(probabilities) - expected).max())
    if apart.mean() > MOST_LEVELS:
        raise UserError(
            f"The exported model resizes photos to other pixels than Pillow ({apart.mean():.3g} of "
            "255 levels on average). Nothing is written."
        )
    return {
        "resizing": f"{apart.mean():.2g} levels of 255 from Pillow's on average, {apart.max():.0f} "
        f"at most; a probability changes by {changed:.2g} at most"
    }


def whole_photos(transform: EvalTransform, photos: Sequence[Any] | None) -> list[np.ndarray]:
    """Return images in their own sizes, uint8 ``[H, W, C]``, without those that cannot be read."""
    images = []
    for photo in sample_photos() if photos is None else photos:
        if isinstance(photo, np.ndarray):
            images.append(photo)
        elif isinstance(photo, Image.Image):
            images.append(np.asarray(photo.convert("RGB")))
        else:
            with contextlib.suppress(ImageDecodeError):
                images.append(read_image(photo))
    if transform.channels == 1:
        images = [fit_grey(image) for image in images]
    return images


def fit_grey(image: np.ndarray) -> np.ndarray:
    """Return an image ``[H, W, 1]`` in Pillow's grey."""
    if image.shape[2:] == (1,):
        return image
    return np.asarray(Image.fromarray(image).convert("L"))[..., np.newaxis]
