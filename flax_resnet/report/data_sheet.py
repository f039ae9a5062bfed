"""What a page shows of a run's data, which the run keeps as ``report/data.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data import Dataset
from ..data.images import SPLITS, ImageDecodeError
from ..errors import UserError
from ..output_files import write_json
from ..text_files import read_if_present
from .pictures import data_uri, to_webp

FILE = "data.json"
SAMPLES, VERSIONS = 20, 3


@dataclass(frozen=True)
class DataSheet:
    """Counts and samples of a data set.

    Attributes:
        name: Name of the set.
        image_shape: ``(H, W, C)`` of the images as the model sees them.
        counts: Number of images of each class by split.
        samples: Training images: the name of the class or classes, the picture as the model sees it
            in evaluation, and pictures of augmented versions, as URIs.
        bad: Path -> reason of files that cannot be read.
        notes: Sentences about what was found.
    """

    name: str
    image_shape: tuple[int, ...]
    counts: Mapping[str, tuple[int, ...]]
    samples: Sequence[tuple[str, str, tuple[str, ...]]] = ()
    bad: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def data_sheet(
    dataset: Dataset,
    indices: Sequence[int] = (),
    augmented: Sequence[np.ndarray] = (),
) -> DataSheet:
    """Return the sheet of a data set.

    Args:
        dataset: The data set.
        indices: Training images to show.
        augmented: Augmented versions of these, uint8 ``[len(indices), H, W, C]`` each.
    """
    counts = {split: _counts(getattr(dataset, split).labels, dataset) for split in SPLITS}
    samples = []
    try:
        stored = dataset.train.gather(np.asarray(indices, np.intp))
    except (ImageDecodeError, UserError, OSError):
        indices = ()
    for row in range(len(indices)):
        if not stored.get("mask", np.ones(len(indices), bool))[row]:
            continue
        label = np.asarray(stored["label"][row])
        classes = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
        versions = tuple(data_uri(to_webp(pixels[row])) for pixels in augmented)
        name = ", ".join(dataset.classes[one] for one in classes)
        samples.append((name, data_uri(to_webp(stored["image"][row])), versions))
    return DataSheet(
        name=dataset.name,
        image_shape=tuple(dataset.image_shape),
        counts=counts,
        samples=samples,
        bad=dict(dataset.bad),
        notes=tuple(dataset.notes),
    )


def sample_rows(labels: np.ndarray, count: int = SAMPLES) -> list[int]:
    """Choose images of every class in turn, those of one class at equal distances.

    Args:
        labels: int ``[N]``, or ``[N, K]`` of 0 and 1, of which the first class counts.
        count: Number of images.
    """
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    groups = [np.flatnonzero(classes == one) for one in np.unique(classes)]
    if len(groups) > count:
        groups = [groups[i] for i in np.linspace(0, len(groups) - 1, count).astype(int)]
    rounds = -(-count // max(len(groups), 1))
    chosen = [
        int(group[turn * len(group) // rounds])
        for turn in range(rounds)
        for group in groups
        if turn < len(group)
    ]
    return chosen[:count]


def write_data_sheet(folder: Path, sheet: DataSheet) -> None:
    """Write the sheet.

    Raises:
        UserError: The file cannot be written.
    """
    write_json(folder / FILE, vars(sheet), indent=None)


def read_data_sheet(folder: Path) -> DataSheet | None:
    """Read the sheet; None if there is none.

    Raises:
        UserError: The file is damaged.
    """
    remedy = "delete it and run flax-resnet report again"
    return read_if_present(folder / FILE, lambda fields: DataSheet(**fields), remedy)


def _counts(labels: np.ndarray, dataset: Dataset) -> tuple[int, ...]:
    labels = np.asarray(labels)
    if labels.ndim == 2:
        return tuple((labels > 0).sum(0).tolist())
    return tuple(np.bincount(labels, minlength=len(dataset.classes)).tolist())
