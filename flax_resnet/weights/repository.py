"""A folder in the layout of the Hugging Face hub, whose ``config.json`` describes its weights."""

import json
import logging
from pathlib import Path
from typing import Any

from ..errors import UserError
from .architecture import build_model, nearest_config, usual_transform
from .find import find_weights
from .formats.files import read_file
from .hub import CONFIG_FILE, weights_in
from .info import LoadedWeights, WeightsInfo, numbered_classes
from .transformers import class_names, model_options, processor_transform

logger = logging.getLogger(__name__)

PROCESSOR_FILE = "preprocessor_config.json"


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
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
    info = WeightsInfo(
        source=source,
        kind="transformers",
        path=path,
        config=model_config,
        classes=classes,
        transform=transform,
        has_classifier=head is not None,
        model_options=more,
    )
    return LoadedWeights(info, weights)
