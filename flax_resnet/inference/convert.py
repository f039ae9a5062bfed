"""Conversion of weights between files, runs and published sets, and its verification."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ..errors import UserError
from ..models import create_model, default_image_shape
from ..storage import locate
from ..weights import load_weights, to_torchvision
from ..weights.infer import UNSEEN_OPTIONS
from .classifier import Classifier, load


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        classifier: The model and its weights.
        arrays: Number of arrays that were written.
        differences: Largest absolute difference of the logits of one random image against those
            before the conversion, by what was compared (``"written and read again"``,
            ``"torchvision"``); empty without ``verify``.
        largest_logit: The scale of ``differences``.
    """

    classifier: Classifier
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
    key: str | None = None,
    head: Literal["keep", "drop"] = "keep",
    stem_pool: Literal["none", "max"] | None = None,
    in_channels: int | None = None,
    in_channels_init: Literal["adapt", "fresh"] = "adapt",
) -> Conversion:
    """Convert weights from ``source`` to ``target``.

    Args:
        source: A run's folder, a file of weights or a published set, see ``load``.
        target: A file (``.safetensors``, ``.npz``, ``.pth``), or a name without ending for a run's
            folder, which must not exist yet.
        model: Name of the model; by default it is inferred from the arrays.
        num_classes: Another number of classes than the weights have creates a random classifier.
        verify: Whether to read the target again and compare outputs, also with torchvision's where
            that is installed.
        key: Of a file with several ResNets, the key of one, such as ``"state_dict_ema"``.
        head: ``"drop"`` leaves out the classifier.
        stem_pool: Of a file, whether a max-pool follows the stem, ``"max"`` or ``"none"``. After
            a stem of one 3x3 convolution a file may not tell it; then it must be given.
        in_channels, in_channels_init: Another number of channels of the images, see ``load``.

    Raises:
        UserError: A file is missing, damaged or of another kind, the weights are of another model
            or hold NaN or infinity, or ``verify`` finds logits that are not finite.
    """
    target = locate(target)
    classifier = load(
        source,
        model=model,
        num_classes=num_classes,
        key=key,
        head=head,
        stem_pool=stem_pool,
        in_channels=in_channels,
        in_channels_init=in_channels_init,
    )
    classifier.save(target)
    differences, largest = _verify(classifier, target) if verify else ({}, 0.0)
    leaves = jax.tree_util.tree_leaves_with_path(classifier.variables)
    written = [path for path, _ in leaves if classifier.classes or not _of_head(path)]
    return Conversion(classifier, len(written), differences, largest)


def _of_head(path: tuple[Any, ...]) -> bool:
    return str(path[1].key).startswith("fc")


def _verify(classifier: Classifier, target: Path) -> tuple[dict[str, float], float]:
    model = classifier.model
    head: Literal["keep", "drop"] = "keep" if classifier.classes else "drop"
    again = load(target).variables if target.is_dir() else load_weights(target, model, head=head)
    params = classifier.variables["params"]
    channels = params["conv1" if "conv1" in params else "conv1_0"]["kernel"].shape[2]
    height, width, _ = default_image_shape(model)
    if model.pooling == "flatten":  # its classifier is for images of one size
        made = classifier.transform
        height, width = (made.model_size or side for side in (made.height, made.width))
    image = np.random.default_rng(0).standard_normal((1, height, width, channels), np.float32)
    # The highest precision: the matrix units of GPUs and TPUs would round.
    with jax.default_matmul_precision("highest"):
        before = _outputs(classifier, classifier.variables, image)
        after = _outputs(classifier, again, image)
    differences = {"written and read again": float(np.abs(before - after).max())}
    theirs = _torchvision_logits(classifier, image)
    if theirs is not None:
        differences["torchvision"] = float(np.abs(before - theirs).max())
    if not np.isfinite([*differences.values(), np.abs(before).max()]).all():
        raise UserError(
            f"{target} is written, but the logits of a random image are not finite: these weights "
            "are of no use, so look for others."
        )
    return differences, float(np.abs(before).max())


def _outputs(classifier: Classifier, variables: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
    """Return the logits, or the pooled features of a model without a classifier."""
    model = classifier.model
    if classifier.classes:
        return np.asarray(model.apply(variables, image, train=False))
    features: Any = model.apply(variables, image, train=False, method="features")
    return np.asarray(features["pooled"])


def _torchvision_logits(classifier: Classifier, image: np.ndarray) -> np.ndarray | None:
    """Return the logits of torchvision's model with these weights; None where it has none."""
    if not classifier.classes:
        return None
    try:
        import torch
        from torchvision.models import get_model
    except (ImportError, RuntimeError):  # RuntimeError: built for another torch
        return None
    try:
        reference = get_model(
            classifier.info.config.name, num_classes=len(classifier.classes)
        ).eval()
    except ValueError:  # no model of that name
        return None
    exported = to_torchvision(classifier.variables, classifier.model)
    shapes = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    if {name: array.shape for name, array in exported.items()} != shapes:
        return None  # torchvision has this model with another stem or other shortcuts
    ours, usual = classifier.model, create_model(classifier.info.config.name)
    if any(getattr(ours, option) != getattr(usual, option) for option in UNSEEN_OPTIONS):
        return None  # the same arrays, but torchvision computes v1.5, with its max-pool
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in exported.items()})
    with torch.no_grad():
        return reference(torch.from_numpy(image.transpose(0, 3, 1, 2))).numpy()
