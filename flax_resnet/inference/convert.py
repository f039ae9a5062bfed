"""Weights from one kind of file to another, or to and from a run's folder, and the proof."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from ..models import default_image_shape
from ..weights import (
    load_weights,
    save_weights,
    to_torchvision,
)
from .loading import load_file
from .run_folder import LoadedRun, load_run, save_run


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
      run: the model and its weights.
      arrays: how many were written.
      differences: largest absolute difference of the logits of one random image against those
        before the conversion, by what was compared with (``"written and read again"``,
        ``"torchvision"``); empty without ``verify``.
      largest_logit: the scale of ``differences``.
    """

    run: LoadedRun
    arrays: int
    differences: Mapping[str, float]
    largest_logit: float


def convert_weights(
    source: str | Path,
    target: str | Path,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    verify: bool = False,
) -> Conversion:
    """Convert weights from ``source`` to ``target``.

    Args:
      source: a file (``.pth``, ``.pt``, ``.th``, ``.bin``, ``.tar``, ``.safetensors``, ``.npz``)
        or a run's folder.
      target: a file (``.safetensors``, ``.npz``, ``.pth``), or a name without ending for a run's
        folder, which must not be there yet.
      model: name of the model; by default it is read off the arrays.
      num_classes: another number of classes starts with a fresh classifier.
      verify: read the target again and compare logits, also with torchvision's where that is
        installed.

    Raises:
      UserError: a file is missing, damaged or of another kind, or the weights are of another model.
    """
    source, target = Path(source), Path(target)
    run = load_run(source) if source.is_dir() else load_file(source, model, num_classes)
    if target.suffix:
        save_weights(target, run.variables, run.model)
    else:
        save_run(target, run)
    differences, largest = _verify(run, target) if verify else ({}, 0.0)
    return Conversion(run, len(jax.tree.leaves(run.variables)), differences, largest)


def _verify(run: LoadedRun, target: Path) -> tuple[dict[str, float], float]:
    model = run.model
    again = load_run(target).variables if target.is_dir() else load_weights(target, model)
    params = run.variables["params"]
    channels = params["conv1" if "conv1" in params else "conv1_0"]["kernel"].shape[2]
    height, width, _ = default_image_shape(model)
    image = np.random.default_rng(0).standard_normal((1, height, width, channels), np.float32)
    # The highest precision: the matrix units of GPUs and TPUs would round.
    with jax.default_matmul_precision("highest"):
        before = np.asarray(model.apply(run.variables, image, train=False))
        after = np.asarray(model.apply(again, image, train=False))
    differences = {"written and read again": float(np.abs(before - after).max())}
    theirs = _torchvision_logits(run, image)
    if theirs is not None:
        differences["torchvision"] = float(np.abs(before - theirs).max())
    return differences, float(np.abs(before).max())


def _torchvision_logits(run: LoadedRun, image: np.ndarray) -> np.ndarray | None:
    """Logits of torchvision's model with the exported weights, or None where there is none."""
    try:
        import torch
        from torchvision.models import get_model
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    try:
        twin = get_model(run.config.name, num_classes=len(run.classes)).eval()
    except ValueError:  # no model of that name
        return None
    exported = to_torchvision(run.variables, run.model)
    if exported["conv1.weight"].shape != tuple(twin.conv1.weight.shape):
        return None  # another stem, or other channels, than torchvision has
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in exported.items()})
    with torch.no_grad():
        return twin(torch.from_numpy(image.transpose(0, 3, 1, 2))).numpy()
