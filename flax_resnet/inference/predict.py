"""Classification of images: probabilities of every class, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from ..metrics import probabilities_of
from ..report.notebook import MOST_ROWS, predictions_table, to_html
from .inputs import Images
from .outputs import BATCH_SIZE, TestTimeAugmentation, forward_images

if TYPE_CHECKING:
    from .classifier import Classifier


@dataclass(frozen=True)
class Prediction:
    """One class and its probability.

    Attributes:
        label: Name of the class.
        index: Index of the class among the logits.
        probability: A number from 0 to 1.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the classes of images.

    Attributes:
        names: Paths as they were given; of other images their numbers, from 0.
        classes: Names, in the order of ``probabilities``.
        probabilities: Float32 ``[N, K]``; NaN in the rows of images that failed.
        failed: Name -> reason of each image that could not be read, or whose logits hold NaN or
            infinity.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    failed: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The most probable class of each image; None where the image could not be read."""
        return tuple(found[0].label if found else None for found in self.top(1))

    def top(self, k: int = 5) -> list[list[Prediction]]:
        """Return the ``k`` most probable classes of each image, the most probable first.

        The list of an image that could not be read is empty.
        """
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            []
            if name in self.failed
            else [Prediction(self.classes[i], int(i), float(row[i])) for i in best]
            for name, row, best in zip(self.names, self.probabilities, order, strict=True)
        ]

    def _repr_html_(self) -> str:
        """The most probable classes of the first images, as a table that a notebook shows."""
        first = slice(MOST_ROWS)
        shown = Predictions(self.names[first], self.classes, self.probabilities[first], self.failed)
        ranked = [[(one.label, one.probability) for one in best] for best in shown.top(3)]
        return to_html(predictions_table(self.names, ranked, self.failed))


def to_probabilities(classifier: Classifier, logits: np.ndarray) -> np.ndarray:
    """Turn logits ``[N, K]`` into probabilities, as the loss of the training run implies."""
    return probabilities_of(logits, classifier.info.loss)


def check_temperature(temperature: float) -> None:
    """Check a number that logits are divided by.

    Raises:
        UserError: It is not above 0, or infinite.
    """
    if not 0 < temperature < math.inf:
        raise UserError(f"The temperature is {temperature:g}; it must be above 0.", exit_code=2)


def at_temperature(classifier: Classifier, logits: np.ndarray, temperature: float) -> np.ndarray:
    """Turn finite logits ``[N, K]``, divided by the temperature, into probabilities.

    Raises:
        UserError: The temperature is so low that the quotients are infinite.
    """
    with np.errstate(over="ignore", divide="ignore"):
        scaled = logits / np.float32(temperature)
    if not np.isfinite(scaled).all():
        raise UserError(f"The temperature {temperature:g} is too low for these logits.")
    return to_probabilities(classifier, scaled)


def predict_batches(
    classifier: Classifier,
    images: Images,
    *,
    batch_size: int = BATCH_SIZE,
    tta: TestTimeAugmentation | None = None,
    temperature: float = 1.0,
) -> Iterator[Predictions]:
    """Classify images one batch at a time, for more images than fit in memory.

    The arguments are those of ``predict``.

    Yields:
        The predictions of each batch.

    Raises:
        UserError: As in ``predict``.
    """
    check_temperature(temperature)
    if batch_size < 1:
        raise UserError(f"The batch size is {batch_size}; it must be above 0.", exit_code=2)
    program = classifier._logits_program(tta)
    classes = classifier.classes
    for batch in forward_images(program, images, classifier.transform, batch_size):
        probabilities = np.full((len(batch.names), len(classes)), np.nan, np.float32)
        probabilities[batch.read] = at_temperature(classifier, batch.outputs, temperature)
        yield Predictions(batch.names, classes, probabilities, batch.failed)


def predict(
    classifier: Classifier,
    images: Images,
    *,
    batch_size: int = BATCH_SIZE,
    tta: TestTimeAugmentation | None = None,
    temperature: float = 1.0,
) -> Predictions:
    """Classify images.

    Args:
        classifier: The trained model.
        images: One image or a sequence of images, of any size: paths, the bytes of files, binary
            files (read from their beginning), PIL images, or arrays ``[H, W]`` or ``[H, W, C]``
            with 1, 3 or 4 channels (alpha is dropped); or one array ``[N, H, W, C]`` or
            ``[N, H, W]``. Arrays are uint8, or floats from 0 to 1 or from 0 to 255, which are
            rounded to whole levels. Images are transformed as in evaluation, except for arrays
            and PIL images of the model's input size, which stay as they are.
        batch_size: Rows of every batch; a few images make a smaller one.
        tta: Test-time augmentation: ``"flip"`` averages the logits of each image and its mirror
            image.
        temperature: The logits are divided by it, see ``evaluate``.

    Returns:
        The probabilities of every image, in order. ``failed`` names files and encoded images that
        cannot be read.

    Raises:
        UserError: A value that is no image, an array of another type or range, an array whose shape
            could be read in two ways, or a model without a trained classifier.
    """
    batches = list(
        predict_batches(classifier, images, batch_size=batch_size, tta=tta, temperature=temperature)
    )
    empty = np.zeros((0, len(classifier.classes)), np.float32)
    return Predictions(
        names=tuple(name for batch in batches for name in batch.names),
        classes=classifier.classes,
        probabilities=np.concatenate([empty, *(batch.probabilities for batch in batches)]),
        failed={name: why for batch in batches for name, why in batch.failed.items()},
    )
