"""What the metadata of a ``.safetensors`` file of ours says about its arrays."""

import dataclasses
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ModelConfig, stored_loss, stored_model_config
from ..errors import UserError
from ..text_files import parse_json
from ..transform import EvalTransform
from .formats.files import read_metadata
from .infer import OPTIONS_ENTRY, UNSEEN_OPTIONS
from .info import WeightsInfo

ENTRY = "flax_resnet"
CHECKSUM_ENTRY = "flax_resnet_crc32"  # of that entry; files of earlier versions lack it


@dataclass(frozen=True)
class Description:
    """The model, classes, transform and loss of a file.

    Without a classifier there are no classes.
    """

    config: ModelConfig
    model_options: dict[str, Any]
    classes: tuple[str, ...]
    transform: EvalTransform
    loss: str | None = None


def describe(info: WeightsInfo) -> dict[str, str]:
    """Return the metadata that ``read_description`` reads, with their checksum."""
    changed = {
        field.name: value
        for field in dataclasses.fields(info.config)
        if (value := getattr(info.config, field.name)) != field.default or field.name == "name"
    }
    content = {
        "model": changed,
        "model_options": dict(info.model_options),
        "classes": list(info.classes),
        "transform": info.transform.to_json(),
    }
    if "loss" in info.settings:  # it decides how logits become probabilities
        content["loss"] = info.settings["loss"]
    text = json.dumps(content)
    return {ENTRY: text, CHECKSUM_ENTRY: _checksum(text)}


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def read_description(path: Path) -> Description | None:
    """Read the description in a file of weights; None where there is none.

    Raises:
        UserError: It is damaged, or of another version.
    """
    with path.open("rb") as file:
        if file.read(9)[8:] != b"{":
            return None
    metadata = read_metadata(path)
    return parse_description(metadata, path) if ENTRY in metadata else None


def parse_description(metadata: Mapping[str, str], path: Path) -> Description:
    """Return the description that is the entry ``ENTRY`` of a file's metadata.

    Raises:
        UserError: It is damaged, or of another version.
    """
    content = metadata[ENTRY]
    if metadata.get(CHECKSUM_ENTRY, _checksum(content)) != _checksum(content):
        raise UserError(
            f"{path} is damaged: the description of its model is not as it was written. Copy it "
            "again."
        )
    try:
        held = parse_json(content)
        return Description(
            config=stored_model_config(held["model"]),
            model_options=_tuples(held["model_options"]),
            classes=tuple(map(str, held["classes"])),
            transform=EvalTransform.from_json(held["transform"]),
            loss=stored_loss(held["loss"]) if "loss" in held else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} describes its model in a way that this version does not read ({error})."
        ) from error


def read_unseen_options(path: Path) -> dict[str, Any]:
    """Return the options that a file of ours says because its arrays do not show them.

    Raises:
        UserError: They are damaged.
    """
    with path.open("rb") as file:
        if file.read(9)[8:] != b"{":
            return {}
    try:
        held = parse_json(read_metadata(path).get(OPTIONS_ENTRY, "{}"))
        return {name: held[name] for name in held if name in UNSEEN_OPTIONS}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} has damaged options of its model ({error}).") from error


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON holds them, with tuples for its lists."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
