"""A run's folder read back: the model, its best weights, its classes and preprocessing."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn

from ..config import ModelConfig
from ..data import Preprocessing
from ..errors import UserError
from ..training import build_model, read_variables, write_json, write_variables


@dataclass(frozen=True)
class LoadedRun:
    """All that is needed to use a trained model.

    Attributes:
      config: the model's name and switches.
      variables: ``{"params", "batch_stats"}``.
      classes: names of the classes, in the order of the logits.
      preprocessing: from pixels to the model's input.
      step: training steps behind the weights.
    """

    config: ModelConfig
    variables: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    step: int = 0

    @property
    def model(self) -> nn.Module:
        """The Linen module."""
        return build_model(self.config, len(self.classes))


def load_run(folder: str | Path) -> LoadedRun:
    """The best checkpoint of the run in ``folder``, with what belongs to it.

    Raises:
      UserError: the folder is missing or not a run's, or one of its files is damaged.
    """
    folder = Path(folder)
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
        mean, std = tuple(preprocessing.pop("mean")), tuple(preprocessing.pop("std"))
        prepare = Preprocessing(mean, std, **preprocessing)
        names = tuple(map(str, classes))
    except (TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"The settings in {folder} are not those of a run of this version ({error})."
        ) from error
    step, variables = read_variables(folder / "checkpoints")
    return LoadedRun(config, variables, names, prepare, step)


def save_run(folder: str | Path, run: LoadedRun) -> None:
    """Write ``run`` as a run's folder, which :func:`load_run` reads.

    Raises:
      UserError: the folder holds something already, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: choose another name for the run's folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = dataclasses.asdict(run.config).items()
        write_json(folder / "config.json", {f"model.{name}": value for name, value in model})
        write_json(folder / "classes.json", list(run.classes))
        write_json(folder / "preprocessing.json", dataclasses.asdict(run.preprocessing))
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
