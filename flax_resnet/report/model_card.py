"""A model card: the README.md that describes a model on the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..weights import Repository, WeightsInfo
from .history import read_history

_MAX_CLASSES = 100  # names in the card
_UNKNOWN = "unknown"  # the hub's word for a licence that nobody has stated

# Rows of the tables: heading, and setting of the run or key of its history.
_DATA = {"data set": "data.name", "folder or file": "data.dir", "image size": "data.image_size"}
_TRAINING = {
    "starting weights": "transfer.weights",
    "trained": "transfer.mode",
    "epochs": "epochs",
    "batch size": "data.batch_size",
    "optimiser": "optimizer.name",
    "learning rate": "optimizer.learning_rate",
    "schedule": "optimizer.schedule",
    "weight decay": "optimizer.weight_decay",
    "loss": "loss",
    "label smoothing": "label_smoothing",
    "moving average": "ema_decay",
    "seed": "seed",
}
_RESULTS = {
    "top-1 accuracy": "top1",
    "top-5 accuracy": "top5",
    "mean average precision": "map",
    "loss": "loss",
}
_PATHS = ("data.dir", "transfer.weights")  # only their last component is anyone's business


def model_card(name: str, info: WeightsInfo, repository: Repository, licence: str | None) -> str:
    """Return the text of a model card.

    Args:
        name: Name of the model, its heading.
        info: Description of the weights, of a run with its settings and the path of its history.
        repository: The folder that the card is for.
        licence: The hub's word for a licence, such as ``"mit"``; None leaves it unknown.
    """
    sections = {
        "Use": _use(name, repository),
        "Classes": _classes(info.classes),
        "Preprocessing": _table(_preprocessing(info)),
        "Data": _table(_settings(info, _DATA)),
        "Training": _table(_settings(info, _TRAINING)),
        "Results": _table(results(info)),
        "Licence": f"{licence or _UNKNOWN}" + ("" if licence else ": to be stated by the author."),
    }
    kind = f"`{info.config.name}`, a ResNet with {len(info.classes)} classes"
    if not info.classes:
        kind = f"`{info.config.name}`, a ResNet without a classifier"
    body = [f"# {PurePath(name).name}", f"{kind}, written by flax_resnet."]
    for title, text in sections.items():
        body += [f"## {title}", text or "Not known: these weights do not come from a run."]
    return _front_matter(info, repository, licence) + "\n\n".join(body) + "\n"


def _front_matter(info: WeightsInfo, repository: Repository, licence: str | None) -> str:
    fields: dict[str, Any] = {
        "license": licence or _UNKNOWN,
        "library_name": repository.format,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "flax_resnet", "jax"],
    }
    if repository.format == "timm":
        fields["tags"].append("timm")
    weights = str(info.settings.get("transfer.weights", ""))
    if weights.startswith(("timm/", "hf:")):
        fields["base_model"] = weights.removeprefix("hf:")
    lines = [f"{key}: {json.dumps(value)}" for key, value in fields.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---", "", ""])


def _use(name: str, repository: Repository) -> str:
    ours = f'classifier = fr.load("hf:{name}")  # or the folder'
    lines = ["```python", "import flax_resnet as fr", "", ours]
    lines += ['print(classifier.predict(["photo.jpg"]).labels)', "```"]
    if repository.format == "timm":
        theirs = f'model = timm.create_model("hf-hub:{name}", pretrained=True)'
        lines += ["", "```python", "import timm", "", theirs, "```"]
    else:
        lines += ["", f"It is in flax_resnet's own format, because {repository.reason}."]
    return "\n".join(lines)


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return "None: the weights end with the pooled features."
    names = ", ".join(f"`{name.replace('`', ' ')}`" for name in classes[:_MAX_CLASSES])
    rest = len(classes) - _MAX_CLASSES
    return f"{names} and {rest:,} more, in `config.json`." if rest > 0 else f"{names}."


def _preprocessing(info: WeightsInfo) -> dict[str, str]:
    transform = info.transform
    size = f"{transform.height}×{transform.width}"
    crop = f"shorter side to {transform.resize}, then the middle {size}"
    return {
        "size": crop if transform.resize else f"the whole image to {size}",
        "interpolation": transform.interpolation,
        "channels": str(transform.channels),
        "mean": ", ".join(f"{value:g}" for value in transform.mean),
        "standard deviation": ", ".join(f"{value:g}" for value in transform.std),
    }


def _settings(info: WeightsInfo, rows: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that a run has."""
    found = {title: info.settings.get(setting) for title, setting in rows.items()}
    return {
        title: PurePath(value).name if rows[title] in _PATHS and _is_path(value) else str(value)
        for title, value in found.items()
        if value is not None
    }


def _is_path(value: Any) -> bool:
    return PurePath(value).is_absolute() or str(value).startswith((".", "~"))


def results(info: WeightsInfo) -> dict[str, str]:
    """Return the scores of the run's best checkpoint, or the published ones."""
    if info.kind != "run" or info.path is None:
        return {name: f"{value:g}%" for name, value in info.metrics.items()}
    history = read_history(Path(info.path) / "history.jsonl")
    best = next((entry for entry in history if entry["step"] == info.step), {})
    scores = {}
    for split, entry in (("validation", best), ("test", history[-1] if history else {})):
        prefix = "val" if split == "validation" else "test"
        for title, key in _RESULTS.items():
            if (value := entry.get(f"{prefix}_{key}")) is not None:
                scores[f"{title}, {split}"] = f"{value:.4f}" if key == "loss" else f"{value:.2%}"
    return scores


def _table(rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    lines = [f"| {title} | {value.replace('|', ' ')} |" for title, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
