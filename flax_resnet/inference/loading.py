"""A model to predict with: from a run's folder, a file of weights, or a published name."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from ..data import Framing, Preprocessing
from ..errors import UserError
from ..models import create_model
from ..training import build_model
from ..weights import (
    from_torchvision,
    imagenet_classes,
    infer_model,
    load_pretrained,
    read_weights,
    torchvision_names,
)
from .run_folder import LoadedRun, framing_of, load_run


def load_any(
    source: str | Path, classes: Sequence[str] | None = None, model: str | None = None
) -> LoadedRun:
    """Load what ``source`` names.

    Args:
      source: a run's folder; a file of weights (``.pth``, ``.safetensors``, ``.npz``, ...); or a
        model with published weights, ``"resnet50"`` or ``"resnet50:IMAGENET1K_V1"``.
      classes: other names of the classes, see :func:`read_classes`.
      model: name of a file's model; by default it is read off the arrays.

    Raises:
      UserError: nothing of that name, a damaged file or folder, weights of another model, or as
        many names as the model has no classes.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        run = load_run(path)
    elif path.exists() or path.suffix:
        run = load_file(path, model, None)
    elif path.name != str(source):
        raise UserError(
            f"{source} does not exist: give a run's folder, a file of weights or a model that "
            "flax-resnet list names."
        )
    else:
        run = _load_published(str(source))
    if classes is None:
        return run
    if len(classes) != len(run.classes):
        raise UserError(
            f"There are {len(classes)} names of classes, but {source} has {len(run.classes)}."
        )
    return dataclasses.replace(run, classes=tuple(classes))


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Names of classes from ``class_indices.json`` (``{"0": "daisy", ...}`` or the reverse,
    ``{"daisy": 0, ...}``), from a JSON list, or from a text file with one a line.

    Raises:
      UserError: the file cannot be read, or its numbers do not count from 0.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): name a .json or .txt file.") from error
    if Path(path).suffix.lower() != ".json":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    try:
        held = json.loads(text)
        if isinstance(held, list):
            return tuple(map(str, held))
        if all(isinstance(value, int) for value in held.values()):
            held = {number: name for name, number in held.items()}
        numbered = {int(number): str(name) for number, name in held.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            f'{path} does not hold classes ({error}): write {{"0": "daisy", "1": "rose"}}.'
        ) from error
    if sorted(numbered) != list(range(len(numbered))):
        raise UserError(f"{path} must number its {len(numbered)} classes from 0, each once.")
    return tuple(numbered[number] for number in range(len(numbered)))


def _load_published(source: str) -> LoadedRun:
    name, _, weights = source.partition(":")
    try:
        create_model(name)
    except ValueError as error:
        raise UserError(
            f"{source} is neither a run's folder nor a file of weights: {error}"
        ) from error
    _, variables, info = load_pretrained(name, weights or "DEFAULT")
    framing = Framing(info.crop, info.crop, info.resize, info.interpolation)  # type: ignore[arg-type]
    preprocessing = Preprocessing(info.mean, info.std)
    return LoadedRun(ModelConfig(name=name), variables, info.classes, preprocessing, framing)


def load_file(path: Path, name: str | None, num_classes: int | None) -> LoadedRun:
    """A file of weights as a run: its model read off the arrays unless ``name`` says it, its
    preprocessing the usual one of that model.

    Args:
      num_classes: another number than the file has: a fresh classifier.

    Raises:
      UserError: the file is missing, damaged or of another kind, or of another model.
    """
    tensors = read_weights(path)
    names = torchvision_names(tensors)
    try:
        inferred = infer_model({name: tensors[names[name]].shape for name in names})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    ours = {field.name for field in dataclasses.fields(ModelConfig)}
    options = {key: value for key, value in inferred.options.items() if key in ours}
    config = ModelConfig(**{"name": inferred.name, **options})
    if name is not None and name != inferred.name:
        config = ModelConfig(name=name)
    held = inferred.classes
    wanted = num_classes or held or create_model(inferred.name).num_classes
    model = build_model(config, wanted)
    fresh = wanted != held
    try:
        variables = from_torchvision(tensors, model, head="drop" if fresh else "keep")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    classes = imagenet_classes() if wanted == 1000 else tuple(map(str, range(wanted)))
    channels = _channels(variables["params"])
    framing = framing_of(model, channels)
    preprocessing = _usual_preprocessing(channels)
    return LoadedRun(config, variables, classes, preprocessing, framing, fresh_classifier=fresh)


def _channels(params: Mapping[str, Any]) -> int:
    first = params["conv1" if "conv1" in params else "conv1_0"]
    return int(first["kernel"].shape[2])


def _usual_preprocessing(channels: int) -> Preprocessing:
    if channels == 3:
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing((float(np.mean(IMAGENET_MEAN)),), (float(np.mean(IMAGENET_STD)),))
