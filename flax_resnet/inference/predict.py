"""Classes of images: what a trained model says they are, and how sure it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..metrics import probabilities_of as probabilities_of_logits
from .outputs import BATCH_SIZE, Augmentation, Images, logits_of, outputs
from .run_folder import LoadedRun


@dataclass(frozen=True)
class Prediction:
    """One class and its probability."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Predictions:
    """What a model says of images.

    Attributes:
      names: paths as they were given, or numbers from 0 of images in memory; every one.
      classes: names, in the order of ``probabilities``.
      probabilities: float32 ``[N, K]``; NaN in the rows of images that could not be read.
      failed: path -> why it could not be read.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    failed: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The likeliest class of each image; None where it could not be read."""
        return tuple(guesses[0].label if guesses else None for guesses in self.top(1))

    def top(self, k: int = 5) -> list[list[Prediction]]:
        """The ``k`` likeliest classes of each image, likeliest first; empty where it could not
        be read."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [
            []
            if name in self.failed
            else [Prediction(self.classes[i], int(i), float(row[i])) for i in best]
            for name, row, best in zip(self.names, self.probabilities, order, strict=True)
        ]


def probabilities_of(run: LoadedRun, logits: np.ndarray) -> np.ndarray:
    """``[N, K]``: of one class among all, or, where an image may have any number of them (a run
    trained with ``loss="sigmoid"``), of each class by itself."""
    return probabilities_of_logits(logits, run.settings.get("loss", "softmax"))


def predict_batches(
    run: LoadedRun,
    images: Images,
    *,
    batch_size: int = BATCH_SIZE,
    tta: Augmentation | None = None,
    temperature: float = 1.0,
) -> Iterator[Predictions]:
    """:func:`predict` a batch at a time, for more images than fit in memory.

    Raises:
      UserError: as :func:`predict`.
    """
    if temperature <= 0 or batch_size < 1:
        raise UserError("The temperature and the batch size must be above 0.", exit_code=2)
    function = logits_of(run, tta)
    for part in outputs(function, images, run.framing, batch_size=batch_size):
        probabilities = np.full((len(part.names), len(run.classes)), np.nan, np.float32)
        probabilities[part.read] = probabilities_of(run, part.values / temperature)
        yield Predictions(part.names, run.classes, probabilities, part.failed)


def predict(
    run: LoadedRun,
    images: Images,
    *,
    batch_size: int = BATCH_SIZE,
    tta: Augmentation | None = None,
    temperature: float = 1.0,
) -> Predictions:
    """Classify images.

    Args:
      run: see :func:`load_run`, :func:`load_any`.
      images: paths, or uint8 arrays or PIL images in memory; of any size and mode: they are
        resized, cropped and coloured as evaluation did it.
      batch_size: rows of every batch; fewer for a few images.
      tta: ``"flip"`` averages the logits of each image and its mirror image.
      temperature: logits are divided by it, see :func:`evaluate`.

    Returns:
      Every image's probabilities, in order. Files that cannot be read are in ``failed``.

    Raises:
      UserError: images in memory that are none, or a model without a trained classifier.
    """
    options = {"batch_size": batch_size, "tta": tta, "temperature": temperature}
    parts = list(predict_batches(run, images, **options))  # type: ignore[arg-type]
    failed = {name: why for part in parts for name, why in part.failed.items()}
    names = tuple(name for part in parts for name in part.names)
    empty = np.zeros((0, len(run.classes)), np.float32)
    rows = np.concatenate([empty, *(part.probabilities for part in parts)])
    return Predictions(names, run.classes, rows, failed)
