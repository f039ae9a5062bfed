"""What a run tells at its end: its best weights image by image, and its page."""

from pathlib import Path

import jax
import numpy as np

from ..data import Dataset, Source
from ..report import Evaluation, evaluate_logits, write_page
from .evaluation import for_evaluation
from .forward import forward
from .state import TrainState
from .step import eval_logits


def write_run_report(
    workdir: Path, dataset: Dataset, state: TrainState, batch_size: int
) -> Path | None:
    """Write ``report/index.html`` of a run that has come to its end.

    Args:
      dataset: its test images, or, without any, its validation images fill the confusion matrix.
      state: of the best checkpoint.
      batch_size: of evaluation.

    Returns:
      The page; None in all processes but the first. In a pod the page has no confusion matrix.
    """
    if jax.process_index() != 0:
        return None
    return write_page(workdir, _evaluation(dataset, state, batch_size))


@jax.jit
def _jitted_logits(state: TrainState, images: jax.Array) -> jax.Array:
    return eval_logits(state, {"image": images})


def _evaluation(dataset: Dataset, state: TrainState, batch_size: int) -> Evaluation | None:
    """One more pass over the test images, and over the validation images for the temperature."""
    has_test = len(dataset.test) > 0
    split = dataset.test if has_test else dataset.validation
    if jax.process_count() > 1 or not len(split) or split.labels.ndim != 1:
        return None
    name = f"{dataset.name} ({'test' if has_test else 'validation'})"
    logits, labels = _logits(split, state, batch_size)
    if not len(labels):
        return None
    others = None
    if has_test and len(dataset.validation):
        others = _logits(dataset.validation, state, batch_size)
        others = others if len(others[1]) else None
    return evaluate_logits(name, logits, labels, dataset.classes, others)


def _logits(split: Source, state: TrainState, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    parts = list(forward(_jitted_logits, for_evaluation(state), split, batch_size=batch_size))
    logits = np.concatenate([part.outputs for part in parts])
    return logits, np.concatenate([part.labels for part in parts])
