"""The outcome of every image of an evaluation, which a run keeps as ``report/images.npz``.

Pages are written from it, also where the images have moved: it holds small pictures of those that a
page shows. ``compare`` finds in it where two runs disagree.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import LossName
from ..data import Source
from ..errors import UserError
from ..metrics import BINS, probabilities_of, reliability_bins
from ..output_files import replacing
from ..storage import local_data
from ..text_files import parse_json
from .pictures import EXTREMES, choose_rows, read_pictures

TOP = 5  # classes kept of each image
TEMPERATURES = np.geomspace(1 / 4, 4, 33)
"""The temperatures of a page's slider; the middle one is 1."""

_CHUNK = 1 << 22  # logits at a time
_FILES = ("pictures", "heat_maps")


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Predictions of the images of an evaluation that could be read.

    Attributes:
        split: Name of the split, ``"test"`` or another.
        names: Path of each image below the folder of its data set, or ``"test/7"`` where it has
            none.
        labels: The true classes, int32 ``[N]``.
        top: The most probable classes, int32 ``[N, k]`` with k at most ``TOP``.
        probabilities: Probabilities of these, float32 ``[N, k]``.
        label_probabilities: Probability of the true class, float32 ``[N]``.
        reliability: ``metrics.reliability_bins`` at each of ``TEMPERATURES``, ``[T, 3, bins]``.
        losses: Mean loss at each of ``TEMPERATURES``, ``[T]``.
        pictures: WebP files of some images by their row.
        heat_maps: WebP files of some of these with the evidence for the predicted class drawn over
            them, by row.
        unreadable: Name -> reason of each image that was left out.
    """

    split: str
    names: tuple[str, ...]
    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    label_probabilities: np.ndarray
    reliability: np.ndarray
    losses: np.ndarray
    pictures: Mapping[int, bytes] = field(default_factory=dict)
    heat_maps: Mapping[int, bytes] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def correct(self) -> np.ndarray:
        """Whether the most probable class is the true one, bool ``[N]``."""
        return self.top[:, 0] == self.labels

    def extremes(self) -> tuple[list[int], list[int]]:
        """Return the rows of the most confident mistakes, and of the most confident hits, of the
        images that have a picture."""
        rows = sorted(self.pictures, key=lambda row: (-self.probabilities[row, 0], row))
        correct = self.correct
        mistakes = [row for row in rows if not correct[row]]
        hits = [row for row in rows if correct[row]]
        return mistakes[:EXTREMES], hits[:EXTREMES]


def outcomes_of(
    logits: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    *,
    loss: LossName = "softmax",
    split: str = "test",
    images: Source | None = None,
    rows: np.ndarray | None = None,
    unreadable: Mapping[str, str] | None = None,
) -> Outcomes:
    """Return the outcomes of images from their logits.

    Args:
        logits: Finite, ``[N, K]``.
        labels: True classes, int ``[N]``.
        names: Name of each image.
        loss: The loss that the model was trained with.
        split: Name of the split.
        images: Where the pictures are read; None for none.
        rows: Index of each image in ``images``; by default ``0, 1, ...``.
        unreadable: Name -> reason of each image that was left out.
    """
    count, classes = logits.shape
    kept = min(TOP, classes)
    top = np.empty((count, kept), np.int32)
    probabilities = np.empty((count, kept), np.float32)
    label_probabilities = np.empty(count, np.float32)
    reliability = np.zeros((len(TEMPERATURES), 3, BINS))
    losses = np.zeros(len(TEMPERATURES))
    step = max(1, _CHUNK // classes)
    for start in range(0, count, step):
        part = slice(start, start + step)
        truth = labels[part].astype(np.int64)
        values = logits[part].astype(np.float32)
        order = np.argsort(-values, axis=1, kind="stable")[:, :kept]
        top[part] = order
        every = probabilities_of(values, loss)
        probabilities[part] = np.take_along_axis(every, order, 1)
        label_probabilities[part] = np.take_along_axis(every, truth[:, None], 1)[:, 0]
        for index, temperature in enumerate(TEMPERATURES):
            confidence, each = _scores(values / np.float32(temperature), truth, loss)
            reliability[index] += reliability_bins(confidence, order[:, 0] == truth)
            losses[index] += each.sum()
    found = Outcomes(
        split=split,
        names=tuple(names),
        labels=labels.astype(np.int32),
        top=top,
        probabilities=probabilities,
        label_probabilities=label_probabilities,
        reliability=reliability,
        losses=losses / max(count, 1),
        unreadable=dict(unreadable or {}),
    )
    if images is None:
        return found
    chosen = choose_rows(found.labels, top[:, 0], probabilities[:, 0])
    sources = chosen if rows is None else np.asarray(rows)[chosen]
    return with_pictures(found, dict(zip(chosen, sources, strict=True)), images)


def _scores(
    logits: np.ndarray, labels: np.ndarray, loss: LossName
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each image's predicted class, and its loss, ``[N]`` each."""
    from scipy.special import expit

    most = logits.max(1)
    own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    if loss == "softmax":
        total = np.exp(logits - most[:, None]).sum(1, dtype=np.float64)
        return 1 / total, np.log(total) - (own - most)
    each = np.logaddexp(np.float32(0), logits).mean(1, dtype=np.float64)
    return expit(most.astype(np.float64)), each - own / logits.shape[1]


def with_pictures(outcomes: Outcomes, rows: Mapping[int, int], images: Source) -> Outcomes:
    """Return outcomes with pictures of rows, given with their indices in a source of images."""
    pictures = read_pictures(images, list(rows.values()))
    by_row = {int(row): pictures[index] for row, index in rows.items() if index in pictures}
    return Outcomes(**{**vars(outcomes), "pictures": by_row})


def write_outcomes(path: Path, outcomes: Outcomes) -> None:
    """Write outcomes as an ``.npz`` file.

    Raises:
        UserError: The file cannot be written.
    """
    texts = {
        "split": outcomes.split,
        "names": outcomes.names,
        "unreadable": dict(outcomes.unreadable),
    }
    arrays: dict[str, Any] = {
        name: value for name, value in vars(outcomes).items() if isinstance(value, np.ndarray)
    }
    arrays["texts"] = _bytes(json.dumps(texts).encode())
    for name in _FILES:
        files = getattr(outcomes, name)
        arrays |= {
            f"{name}.rows": np.array(list(files), np.int64),
            f"{name}.ends": np.cumsum([len(file) for file in files.values()], dtype=np.int64),
            f"{name}.bytes": _bytes(b"".join(files.values())),
        }
    with replacing(path) as fresh, fresh.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_outcomes(path: Path) -> Outcomes | None:
    """Read outcomes that ``write_outcomes`` wrote.

    Returns:
        The outcomes, or None if there is no such file.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        texts = parse_json(arrays.pop("texts").tobytes())
        for name in _FILES:
            rows = arrays.pop(f"{name}.rows").tolist()
            ends = arrays.pop(f"{name}.ends").tolist()
            whole = arrays.pop(f"{name}.bytes").tobytes()
            starts = [0, *ends][: len(ends)]
            texts[name] = {
                row: whole[start:end] for row, start, end in zip(rows, starts, ends, strict=True)
            }
        texts["names"] = tuple(texts["names"])
        return Outcomes(**texts, **arrays)
    except Exception as error:  # zip, zlib, NumPy and JSON each raise their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read ({reason}): delete it and evaluate again, with flax-resnet "
            "report --evaluate."
        ) from error


def relative_names(names: Iterable[str], root: str | Path | None) -> tuple[str, ...]:
    """Return the paths of images below a folder, by which ``data.json`` lists them too."""
    import os

    if root is None:
        return tuple(names)
    folder = local_data(root)
    base = os.path.abspath(folder if folder.is_dir() else folder.parent)
    return tuple(os.path.relpath(name, base) for name in names)


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
