"""An ONNX file in eight-bit integers, quantised by photos, with its measured loss of accuracy."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data import Source
from ...errors import UserError
from ...metrics import MultiLabelEvaluation
from ..evaluate import EvalResult, select_images
from ..find_files import find_files
from ..inputs import open_images
from .onnx_graph import import_onnx

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..onnx_classifier import OnnxClassifier

ENTRY = "int8"
"""Entry of the metadata with the figures of ``Accuracy``."""

MOST_IMAGES = 256  # to calibrate with; more change the ranges hardly
BATCH_SIZE = 16


@dataclass(frozen=True)
class Calibration:
    """How a file is quantised and measured.

    Attributes:
        photos: A folder, a list or paths of photos that set the ranges; None for the training
            images of the run's own data.
        held_out: A folder with a folder for each class, or a list, on which the loss of accuracy is
            measured; None for the test images of the run's own data.
        max_loss: Largest loss of accuracy, as a fraction of the held-out images.
    """

    photos: str | Path | Sequence[str] | None = None
    held_out: str | Path | None = None
    max_loss: float = 0.01


def quantize(
    source: Path, target: Path, classifier: Classifier, calibration: Calibration
) -> dict[str, str]:
    """Quantise an ONNX file of ours, and measure the loss of accuracy.

    onnxruntime's quantiser writes pairs of QuantizeLinear and DequantizeLinear: weights as int8
    with a scale for each output channel, activations as uint8 with the range of the photos.

    Args:
        source: The float file.
        target: The file to write.
        classifier: What the float file was exported from.
        calibration: The photos, and the limit of the loss.

    Returns:
        Facts for a report.

    Raises:
        UserError: There are no photos, some are in both sets, or too much accuracy is lost.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from ..onnx_classifier import load_onnx

    onnx = import_onnx()
    images, paths = _calibration_images(classifier, calibration.photos)
    reader = _Reader(load_onnx(source, classifier.info), images)
    proto = onnx.load(source)
    with _quiet():
        quantize_static(
            source,
            target,
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits for weights: with eight, AVX2's sums of pairs overflow, and a file whose
            # loss was measured on a newer processor would lose more on an older one.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[
                node.name
                for node in proto.graph.node
                if node.name.startswith(("pixels.", "resize")) or node.name == "probabilities"
            ],
        )
    written = onnx.load(target)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(written, metadata)
    onnx.save_model(written, target)

    before = _evaluated(classifier, calibration.held_out)
    both = {*map(os.path.realpath, before.predictions.names)} & {*map(os.path.realpath, paths)}
    if both:
        raise UserError(
            f"{len(both):,} of the held-out photos, such as {min(both)}, are among those of the "
            "calibration: name others, or the loss would look smaller than it is."
        )
    after = _evaluated(load_onnx(target, classifier.info), calibration.held_out)
    title, (float_score, int8_score) = _scores(before, after)
    count, loss = len(before.labels), float_score - int8_score
    sentence = (
        f"{title} {float_score:.2%} in float32 and {int8_score:.2%} in int8, on {count:,} held-out "
        "images"
    )
    if not loss <= calibration.max_loss:
        raise UserError(
            f"int8 loses too much: {sentence}, and --max-loss is {calibration.max_loss:g}. Give "
            "more or other photos to --calibration, or allow a larger loss. Nothing is written."
        )
    figures = {"metric": title, "float32": float_score, "int8": int8_score, "held_out": count}
    figures["calibration"] = reader.count
    onnx.helper.set_model_props(written, metadata | {ENTRY: json.dumps(figures)})
    onnx.save_model(written, target)
    return {"int8": f"{sentence}; ranges of {reader.count:,} photos"}


class _Reader:
    """The inputs of a file for batches of images, as onnxruntime's quantiser reads them."""

    def __init__(self, classifier: OnnxClassifier, images: Source) -> None:
        self.count = 0  # of the images that were read so far
        self._batches = self._gather(classifier, images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)

    def _gather(
        self, classifier: OnnxClassifier, images: Source
    ) -> Iterator[dict[str, np.ndarray]]:
        chosen = spread(len(images), MOST_IMAGES)
        for first in range(0, len(chosen), BATCH_SIZE):
            batch = images.gather(chosen[first : first + BATCH_SIZE])
            pixels = batch["image"][batch.get("mask", np.ones(len(batch["image"]), bool))]
            self.count += len(pixels)
            if len(pixels):
                yield classifier.feed(pixels)
        if not self.count:
            raise UserError("None of the photos to calibrate with can be read: name others.")


def spread(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` indices below ``count``, evenly, so that no class is left out."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _calibration_images(
    classifier: Classifier, photos: str | Path | Sequence[str] | None
) -> tuple[Source, tuple[str, ...]]:
    """Return images to calibrate with, and the paths of those that are files.

    Raises:
        UserError: There are none.
    """
    if photos is None:
        try:
            return select_images(classifier, "train")
        except UserError as error:
            raise UserError(
                f"int8 needs photos to calibrate with: give --calibration FOLDER. ({error})"
            ) from error
    found = find_files([photos] if isinstance(photos, str | Path) else photos)
    if not found.paths:
        raise UserError(f"There are no photos in {photos} to calibrate with.")
    images, names = open_images(list(found.paths), classifier.transform)
    return images, names


def _evaluated(classifier: Classifier, held_out: str | Path | None) -> EvalResult:
    if held_out is None and not classifier.info.settings.get("data.name"):
        raise UserError(
            "int8 needs labelled photos to measure its loss with: give --held-out FOLDER, with a "
            "folder for each class."
        )
    return classifier.evaluate(held_out)


def _scores(*results: EvalResult) -> tuple[str, list[float]]:
    """Return the name of the score, and its values."""
    scores = []
    title = "top-1"
    for done in results:
        if isinstance(done.result, MultiLabelEvaluation):
            title = "mean average precision"
            scores.append(done.result.mean_average_precision or 0.0)
        else:
            scores.append(done.result.top1)
    return title, scores


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the quantiser's advice to optimise the graph first."""
    root: Any = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
