"""A run's folder read back: the model, its best weights, its classes and preprocessing."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn

from ..config import ModelConfig
from ..data import IMAGE_SIZE, Framing, Preprocessing
from ..errors import UserError
from ..models import default_image_shape
from ..training import (
    build_model,
    read_variables,
    write_description,
    write_json,
)

if TYPE_CHECKING:
    from .embed import Embeddings
    from .evaluate import EvalResult
    from .predict import Predictions


@dataclass(frozen=True)
class LoadedRun:
    """All that is needed to use a trained model.

    Attributes:
      config: the model's name and switches.
      variables: ``{"params", "batch_stats"}``.
      classes: names of the classes, in the order of the logits.
      preprocessing: from pixels to the model's input.
      framing: from an image file to the pixels.
      step: training steps behind the weights.
      settings: of its training, by dotted name as in ``config.json``; empty where unknown.
      fresh_classifier: its weights are random: the file held a backbone only, or other classes.
    """

    config: ModelConfig
    variables: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    framing: Framing
    step: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    fresh_classifier: bool = False

    @property
    def model(self) -> nn.Module:
        """The Linen module."""
        return build_model(self.config, len(self.classes))

    @cached_property
    def programs(self) -> dict[Any, Any]:
        """Compiled functions by what they compute, so that a second call does not wait."""
        return {}

    def predict(self, images: Any, **options: Any) -> "Predictions":
        """Classify paths or images in memory; see :func:`predict`."""
        from .predict import predict

        return predict(self, images, **options)

    def embed(self, images: Any, **options: Any) -> "Embeddings":
        """Features of paths or images in memory; see :func:`embed`."""
        from .embed import embed

        return embed(self, images, **options)

    def evaluate(self, source: str | Path | None = None, **options: Any) -> "EvalResult":
        """Compare with the true classes; see :func:`evaluate`."""
        from .evaluate import evaluate

        return evaluate(self, source, **options)


def load_run(folder: str | Path) -> LoadedRun:
    """The best checkpoint of the run in ``folder``, with what belongs to it.

    Raises:
      UserError: the folder is missing or not a run's, or one of its files is damaged.
    """
    folder = Path(folder)
    if folder.is_file():
        raise UserError(
            f"{folder} is a file, but a run is a folder: fr.load_weights reads files of weights."
        )
    settings = _read_json(folder / "config.json")
    classes = _read_json(folder / "classes.json")
    preprocessing = _read_json(folder / "preprocessing.json")
    try:
        model = {
            name.removeprefix("model."): value
            for name, value in settings.items()
            if name.startswith("model.")
        }
        config = ModelConfig(**model)
        framed = preprocessing.pop("framing", None)
        mean, std = tuple(preprocessing.pop("mean")), tuple(preprocessing.pop("std"))
        prepare = Preprocessing(mean, std, **preprocessing)
        names = tuple(map(str, classes))
        framing = Framing(**framed) if framed else _older_framing(config, len(mean), settings)
    except (TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"The settings in {folder} are not those of a run of this version ({error})."
        ) from error
    step, variables = read_variables(folder / "checkpoints")
    return LoadedRun(config, variables, names, prepare, framing, step, settings)


def _older_framing(config: ModelConfig, channels: int, settings: Mapping[str, Any]) -> Framing:
    """What runs did before ``preprocessing.json`` said it."""
    if settings.get("data.name") == "folder":
        size = settings.get("data.image_size") or IMAGE_SIZE
        return Framing.evaluating(size, settings.get("data.resize"))
    if settings.get("data.name") == "digits":
        return Framing.like((8, 8, 1))
    return framing_of(build_model(config, 10), channels)


def framing_of(model: nn.Module, channels: int) -> Framing:
    """How photos are usually shown to a model: at its usual size, cropped only at ImageNet's."""
    height, width, _ = default_image_shape(model)
    if height == 224:
        return dataclasses.replace(Framing.evaluating(height), channels=channels)
    return Framing.like((height, width, channels))


def save_run(folder: str | Path, run: LoadedRun) -> None:
    """Write ``run`` as a run's folder, which :func:`load_run` reads.

    Raises:
      UserError: the folder holds something already, or cannot be written.
    """
    from ..training import write_variables  # here: it imports orbax, which reading does without

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: choose another name for the run's folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = dataclasses.asdict(run.config).items()
        write_json(folder / "config.json", {f"model.{name}": value for name, value in model})
        write_description(folder, run.classes, run.preprocessing, run.framing)
        write_variables(folder / "checkpoints", run.variables)
    except OSError as error:
        raise UserError(f"The run's folder {folder} cannot be written ({error}).") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent} is not a run's folder: it has no {path.name}. Give the --workdir of "
            "a training run."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): copy the run's folder afresh."
        ) from error
