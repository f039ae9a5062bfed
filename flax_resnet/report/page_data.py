"""What the scripts of a page read: cells of the confusion matrix, photos, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..metrics import Evaluation
from .outcomes import TEMPERATURES, Outcomes
from .page_tables import confused_pairs
from .pictures import data_uri

CONFIDENCES = 200  # steps of the confidence slider


def evaluation_data(evaluation: Evaluation, outcomes: Outcomes | None) -> dict[str, Any]:
    """Return the data of an evaluation.

    Args:
        evaluation: Its figures.
        outcomes: The outcome of each image, if they were kept.
    """
    cells = [
        (true, predicted, count)
        for true, row in enumerate(evaluation.confusion)
        for predicted, count in enumerate(row)
        if count
    ]
    data: dict[str, Any] = {"cells": cells, "pairs": confused_pairs(evaluation)[:1]}
    if outcomes is None or not len(outcomes.labels):
        return data
    rows = sorted(outcomes.pictures)
    photos = photo_data(outcomes, rows)
    mistakes, hits = outcomes.extremes()
    confidence, correct = outcomes.probabilities[:, 0], outcomes.correct
    steps = np.clip((confidence * CONFIDENCES).astype(int), 0, CONFIDENCES - 1)
    return data | {
        "photos": photos,
        "mistakes": [rows.index(row) for row in mistakes],
        "hits": [rows.index(row) for row in hits],
        "reliability": {
            "temperatures": TEMPERATURES.round(4).tolist(),
            "bins": outcomes.reliability.round(4).tolist(),
            "losses": outcomes.losses.round(5).tolist(),
            "fitted": evaluation.temperature,
        },
        "confidence": {
            "counts": np.bincount(steps, minlength=CONFIDENCES).tolist(),
            "hits": np.bincount(steps, correct, CONFIDENCES).astype(int).tolist(),
        },
    }


def photo_data(outcomes: Outcomes, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return photos: name ``n``, true class ``t`` and its probability ``q``, the most probable
    classes ``top`` with their probabilities, and the picture ``src``."""
    photos = []
    for row in rows:
        top = zip(outcomes.top[row].tolist(), outcomes.probabilities[row].tolist(), strict=True)
        photo = {
            "n": outcomes.names[row],
            "t": int(outcomes.labels[row]),
            "q": round(float(outcomes.label_probabilities[row]), 4),
            "top": [(index, round(value, 4)) for index, value in top],
            "src": data_uri(outcomes.pictures[row]),
        }
        if row in outcomes.heat_maps:
            photo["heat"] = data_uri(outcomes.heat_maps[row])
        photos.append(photo)
    return photos
