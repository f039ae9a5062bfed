"""Photos whose label looks wrong: a head that has not seen a photo prefers another class.

After Northcutt et al. 2021 "Confident Learning": out-of-sample probabilities rank the photos by the
probability of their label, and a photo is suspected if another class is more probable and reaches
the mean probability that photos with that label have of it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data.images import find_images
from ..errors import UserError
from ..file_names import escape
from ..metrics import probabilities_of
from ..output_files import open_text
from ..training.transfer.head import fit_strengths
from .embed import embed
from .outputs import BATCH_SIZE

if TYPE_CHECKING:
    from .classifier import Classifier

FOLDS = 5


@dataclass(frozen=True)
class Suspects:
    """The photos of a data set, the most suspicious label first.

    Attributes:
        paths: The files.
        classes: Names of the classes.
        labels: Class that each file has in the data set, int ``[N]``.
        suggested: Its most probable class, int ``[N]``.
        probabilities: Of every class, by heads that were fitted without the file, ``[N, K]``.
        suspected: Whether the label looks wrong, bool ``[N]``.
        failed: Path -> reason of each file that could not be read.
        small_classes: Names of the classes with too few photos to judge; these are left out.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    suggested: np.ndarray
    probabilities: np.ndarray
    suspected: np.ndarray
    failed: Mapping[str, str]
    small_classes: tuple[str, ...]

    def save(self, path: str | Path) -> None:
        """Write ``path,label,suggested,label_probability,suggested_probability,suspected`` as CSV.

        Raises:
            UserError: The file cannot be written.
        """
        rows = np.arange(len(self.paths))
        with open_text(path) as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "suggested", "label_probability",
                             "suggested_probability", "suspected"))  # fmt: skip
            for row in rows:
                label, best = self.labels[row], self.suggested[row]
                writer.writerow((
                    escape(self.paths[row]), escape(self.classes[label]),
                    escape(self.classes[best]), f"{self.probabilities[row, label]:.4f}",
                    f"{self.probabilities[row, best]:.4f}", int(self.suspected[row]),
                ))  # fmt: skip


def find_suspects(
    classifier: Classifier,
    source: str | Path,
    *,
    columns: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Suspects:
    """Rank the photos of a folder or list by how wrong their labels look.

    The features of all splits are computed once. Linear heads are fitted on four fifths of them
    each, and judge the rest.

    Args:
        classifier: A trained model; of other classes too, since only its features are used.
        source: A folder with a folder for each class, or a .csv, .tsv or .jsonl.
        columns: The list's columns of paths and labels.
        seed: Of the division into fifths.
        batch_size: Images in a batch.
        progress: Called with the numbers of images done and in all.

    Raises:
        UserError: The source cannot be read, or has fewer than two classes with five photos.
    """
    found = find_images(source, columns=columns)
    paths = [path for records in found.splits.values() for path in records.paths]
    labels = np.concatenate([records.labels for records in found.splits.values()])
    done = 0

    def count(batch: int) -> None:
        nonlocal done
        done += batch
        progress(done, len(paths))

    embeddings = embed(classifier, paths, batch_size=batch_size, progress=count)
    read = np.array([path not in embeddings.failed for path in paths])
    labels, features = labels[read], embeddings.features
    counts = np.bincount(labels, minlength=len(found.classes))
    judged = counts[labels] >= FOLDS
    if np.count_nonzero(counts >= FOLDS) < 2:
        raise UserError(
            f"{source}: labels can be judged where two classes or more have {FOLDS} photos each."
        )
    kept = np.flatnonzero(judged)
    names = np.array(embeddings.names, object)[kept]
    renumbered = np.cumsum(counts >= FOLDS) - 1
    classes = tuple(np.array(found.classes, object)[counts >= FOLDS])
    own = renumbered[labels[kept]]
    probabilities = cross_fit(features[kept], own, len(classes), seed=seed)
    order, suspected = rank_suspects(probabilities, own)
    return Suspects(
        paths=tuple(names[order]),
        classes=classes,
        labels=own[order],
        suggested=probabilities[order].argmax(1),
        probabilities=probabilities[order],
        suspected=suspected[order],
        failed=embeddings.failed,
        small_classes=tuple(
            name for name, number in zip(found.classes, counts, strict=True) if number < FOLDS
        ),
    )


def cross_fit(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, seed: int = 0
) -> np.ndarray:
    """Return probabilities of each row by a head that was fitted without it.

    Args:
        features: Float ``[N, D]``.
        labels: Int ``[N]``; each class has at least ``FOLDS`` rows.
        num_classes: Number of classes.
        seed: Of the division into folds, which is stratified.

    Returns:
        Float32 ``[N, num_classes]``.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    fold = np.empty(len(labels), np.int64)
    fold[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels)) % FOLDS
    probabilities = np.empty((len(labels), num_classes), np.float32)
    strengths: Sequence[float] | None = None  # one for all folds, by the loss on the first
    for number in range(FOLDS):
        own, rest = fold == number, fold != number
        held_out = features[own], labels[own]
        fits = fit_strengths(
            (features[rest], labels[rest]), held_out, num_classes, strengths=strengths
        )
        best = min(fits, key=lambda fit: fit.val["loss"])
        strengths = (best.strength,)
        probabilities[own] = probabilities_of(features[own] @ best.kernel + best.bias)
    return probabilities


def rank_suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank labels, the most suspicious first.

    Args:
        probabilities: Of each class, from models that have not seen the row, ``[N, K]``.
        labels: Int ``[N]``.

    Returns:
        Indices by rising probability of the label, and whether each row is suspected, bool ``[N]``.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    sums = np.bincount(labels, own, minlength=probabilities.shape[1])
    thresholds = sums / np.maximum(np.bincount(labels, minlength=len(sums)), 1)
    best = probabilities.argmax(1)
    suspected = (best != labels) & (probabilities[rows, best] >= thresholds[best])
    return np.argsort(own, kind="stable"), suspected
