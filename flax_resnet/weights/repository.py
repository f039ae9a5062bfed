"""A folder in the layout of the Hugging Face hub, whose ``config.json`` describes its weights."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..models import ResNet
from ..models.blocks import EXPANSION
from ..output_files import write_json
from ..text_files import parse_json
from ..transform import EvalTransform
from .architecture import build_model, nearest_config, usual_transform
from .convert import to_timm, to_torchvision
from .description import ENTRY, describe
from .find import find_weights
from .formats.files import read_file, write_weights
from .hub import CONFIG_FILE, WEIGHTS_FILES, weights_in
from .info import LoadedWeights, WeightsInfo, numbered_classes
from .timm import timm_architecture
from .transformers import class_names, model_options, processor_transform

logger = logging.getLogger(__name__)

PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Repository:
    """A folder that was written for the hub.

    Attributes:
        folder: Its path.
        format: ``"timm"`` where timm can express the model, else ``"flax_resnet"``.
        reason: Why it is not timm's.
    """

    folder: Path
    format: Literal["timm", "flax_resnet"]
    reason: str = ""


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        held = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or download it again.") from error
    if not isinstance(held, dict):
        raise UserError(f"{path} holds no JSON object: copy or download it again.")
    return held


def read_transformers(folder: Path, source: str) -> LoadedWeights:
    """Read a ResNet that transformers saved: ``config.json``, weights and image processor.

    Args:
        folder: The folder of ``save_pretrained``, or of a repository on the hub.
        source: What the caller wrote for it, for the description.

    Raises:
        UserError: The folder holds no ResNet, a file in it is damaged or missing, or a setting is
            not supported.
    """
    config = read_json_object(folder / CONFIG_FILE)
    try:
        options = model_options(config)
        path = weights_in(folder)
        weights = find_weights(read_file(path), source=str(path))
        shapes = weights.shapes()
        head = shapes.get("fc.weight")
        count = head[0] if head else len(config.get("id2label") or range(1000))
        classes = class_names(config, count) or numbered_classes(count)
        model_config, more = nearest_config(options)
        channels = shapes["conv1.weight"][1] if "conv1.weight" in shapes else 3
        if (folder / PROCESSOR_FILE).exists():
            processor = read_json_object(folder / PROCESSOR_FILE)
            transform = processor_transform(processor, channels)
        else:
            model = build_model(model_config, count, **more)
            transform = usual_transform(model, channels)
            logger.warning("%s has no %s: the usual preprocessing", folder, PROCESSOR_FILE)
    except UserError as error:
        raise error if str(folder) in str(error) else UserError(f"{folder}: {error}") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{folder}: its {CONFIG_FILE} or {PROCESSOR_FILE} has a value of another type than "
            f"transformers writes ({error})."
        ) from error
    info = WeightsInfo(
        source=source,
        kind="transformers",
        path=path,
        config=model_config,
        classes=classes if head else (),
        transform=transform,
        has_classifier=head is not None,
        model_options=more,
    )
    return LoadedWeights(info, weights)


def write_repository(
    folder: Path, variables: Mapping[str, Any], model: ResNet, info: WeightsInfo
) -> Repository:
    """Write ``model.safetensors`` and ``config.json`` in timm's format, or in our own.

    ``load_source`` reads both; the file of weights describes the model, classes and transform.

    Args:
        folder: The folder, which is made.
        variables: ``{"params", "batch_stats"}``.
        model: The module that they belong to.
        info: Description of the weights.

    Raises:
        UserError: The folder cannot be written, or the variables are not this model's.
    """
    metadata = describe(info)
    own = {ENTRY: json.loads(metadata[ENTRY])}
    try:
        config = own | _timm_config(variables, model, info)
        repository, convert = Repository(folder, "timm"), to_timm
    except UserError as error:
        config = {"library_name": "flax_resnet", "num_classes": len(info.classes)} | own
        repository, convert = Repository(folder, "flax_resnet", str(error)), to_torchvision
    state_dict = convert(variables, model)
    if not info.classes:
        heads = ("fc.", "head.fc.")
        state_dict = {name: a for name, a in state_dict.items() if not name.startswith(heads)}
    write_weights(folder / WEIGHTS_FILES[0], state_dict, metadata)
    write_json(folder / CONFIG_FILE, config)
    return repository


def _timm_config(variables: Mapping[str, Any], model: ResNet, info: WeightsInfo) -> dict[str, Any]:
    """Return timm's ``config.json``.

    Raises:
        UserError: timm cannot express the model or its preprocessing.
    """
    architecture, arguments = timm_architecture(model)
    params, transform = variables["params"], info.transform
    channels = params["conv1" if "conv1" in params else "conv1_0"]["kernel"].shape[2]
    if transform.model_size is not None:
        raise UserError("timm has no preprocessing that resizes the pixels after the crop")
    if channels != transform.channels:
        raise UserError("timm has no preprocessing that makes grey images of photos")
    if channels != 3:
        arguments["in_chans"] = channels
    pretrained = {
        "input_size": [channels, transform.height, transform.width],
        "interpolation": transform.interpolation,
        "mean": list(transform.mean),
        "std": list(transform.std),
        "num_classes": len(info.classes),
        "first_conv": "conv1" if "conv1" in params else "conv1.0",
        "classifier": "fc",
    }
    if model.version == "v2":
        first = "stem.conv" if "conv1" in params else "stem.conv1"
        pretrained |= {"first_conv": first, "classifier": "head.fc"}
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": len(info.classes),
        "num_features": model.widths[-1] * EXPANSION[model.block],
        "global_pool": "avg",
        "label_names": list(info.classes),
        "pretrained_cfg": pretrained | _crop(transform),
    }
    return config | ({"model_args": arguments} if arguments else {})


def _crop(transform: EvalTransform) -> dict[str, Any]:
    """Return timm's description of a crop: it resizes to ``floor(size / crop_pct)``."""
    if transform.resize is None:
        return {"crop_pct": 1.0, "crop_mode": "squash"}
    ratio = transform.height / transform.resize
    while math.floor(transform.height / ratio) < transform.resize:  # rounding
        ratio = math.nextafter(ratio, 0)
    return {"crop_pct": ratio, "crop_mode": "center"}
