"""A model with published weights, in one call."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from ..config import IMAGENET_MEAN, IMAGENET_STD
from ..errors import UserError
from ..models import QUICK_COMPILATION, create_model
from .convert import from_torchvision
from .formats.files import READERS, read_weights
from .hub import fetch_published, fetch_timm
from .infer import infer_model
from .layouts import torchvision_names
from .names import fresh_variables
from .published import (
    PublishedWeights,
    find_published,
    imagenet_classes,
)


@dataclass(frozen=True)
class PretrainedInfo:
    """What belongs to a set of weights.

    Attributes:
      source: the file it was read from; None for fresh values.
      classes: names of the classes, in the order of the logits; numbers where they are not known.
      mean, std: of the normalisation, by channel of values in [0, 1].
      resize, crop: pixels: the shorter side is resized, then the middle is cut out.
      interpolation: of the resize, which is antialiased.
      metrics: published accuracies on ImageNet-1k in percent, ``acc@1`` and ``acc@5``, if known.
    """

    source: Path | None
    classes: tuple[str, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    metrics: Mapping[str, float] = field(default_factory=dict)


def load_pretrained(
    name: str,
    weights: str | Path = "DEFAULT",
    *,
    num_classes: int | None = None,
    key: jax.Array | None = None,
    cache: Path | None = None,
    **options: Any,
) -> tuple[nn.Module, dict[str, Any], PretrainedInfo]:
    """The model ``name`` with published weights, fetched once and checked by their hash.

    Args:
      name: such as ``"resnet50"``.
      weights: ``"DEFAULT"`` (torchvision's best for the model), ``"IMAGENET1K_V1"`` or ``_V2``,
        ``"timm/resnet50.a1_in1k"`` (any set of that kind on the Hugging Face hub), the path of a
        file, or ``"none"`` for fresh values.
      num_classes: another number than the weights have starts with a fresh classifier.
      key: PRNG key of fresh values; by default ``jax.random.key(0)``.
      cache: folder of torchvision's files; default ``~/.cache/flax_resnet/weights``.
      **options: of :func:`create_model`, such as ``dtype``.

    Returns:
      The module, its variables, and what belongs to them.

    Raises:
      UserError: no such set, no connection, a wrong hash, or weights of another model.
    """
    if weights == "none":
        model = create_model(
            name, **({"num_classes": num_classes} if num_classes else {}), **options
        )
        key = jax.random.key(0) if key is None else key
        init = jax.jit(partial(fresh_variables, model), compiler_options=QUICK_COMPILATION)
        variables = init(key)
        return model, variables, PretrainedInfo(None, _numbered(model.num_classes))
    path, found = find_weights(name, str(weights), cache)
    tensors = read_weights(path)
    names = torchvision_names(tensors)
    try:
        inferred = infer_model({key: tensors[names[key]].shape for key in names})
        if inferred.name != name:
            raise UserError(f"these are weights of {inferred}, not of {name}.")
        held = inferred.classes
        model = inferred.create(**{"num_classes": num_classes or held or 1000, **options})
        same = held == model.num_classes
        variables = from_torchvision(tensors, model, head="keep" if same else "drop", key=key)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    count = model.num_classes
    classes = imagenet_classes() if count == held == 1000 else _numbered(count)
    return model, variables, dataclasses.replace(found, classes=classes)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def find_weights(name: str, weights: str, cache: Path | None = None) -> tuple[Path, PretrainedInfo]:
    """The file that ``weights`` of the model ``name`` stand for, fetched if need be, and what is
    known of it without reading it, its classes left out; arguments as of :func:`load_pretrained`.

    Raises:
      UserError: no such set, no connection, or a wrong hash.
    """
    facts: dict[str, Any] = {}
    if weights.startswith("timm/"):
        path, config = fetch_timm(weights)
        facts = _timm_facts(config)
    elif Path(weights).suffix.lower() in READERS or Path(weights).exists():
        path = Path(weights)
    else:
        entry = find_published(name, weights)
        path, facts = fetch_published(entry, cache), _published_facts(entry)
    return path, PretrainedInfo(path, (), **facts)


def _published_facts(entry: PublishedWeights) -> dict[str, Any]:
    same = ("mean", "std", "resize", "crop", "interpolation")
    metrics = {"acc@1": entry.acc1, "acc@5": entry.acc5}
    return {name: getattr(entry, name) for name in same} | {"metrics": metrics}


def _timm_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm evaluates at ``test_*`` where a set has them, and resizes to crop / crop_pct."""
    size = config.get("test_input_size") or config.get("input_size") or (3, 224, 224)
    share = config.get("test_crop_pct") or config.get("crop_pct") or 0.875
    return {
        "mean": tuple(config.get("mean", IMAGENET_MEAN)),
        "std": tuple(config.get("std", IMAGENET_STD)),
        "resize": math.floor(size[-1] / share),
        "crop": size[-1],
        "interpolation": config.get("interpolation", "bilinear"),
    }
