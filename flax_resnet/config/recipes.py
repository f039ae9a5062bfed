"""Recipes: their folders, reading one by name, and settings as flat JSON."""

import dataclasses
import difflib
import json
import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..paths import expand
from .fields import Config


def config_folders() -> list[Path]:
    """Return the folders of recipes: that of the working directory, then those of the package."""
    package = Path(__file__).resolve().parents[1]
    return [Path("configs"), package.parent / "configs", package / "configs"]


def list_configs() -> list[str]:
    """Return the sorted names of all recipes."""
    return sorted({path.stem for folder in config_folders() for path in folder.glob("*.py")})


def load_config(name: str) -> Config:
    """Read a recipe.

    Args:
        name: A name in ``configs/``, or the path of a file.

    Returns:
        The recipe's config, whose ``workdir`` defaults to ``runs/NAME``.

    Raises:
        UserError: There is no such recipe (the message names the nearest ones), or the file does
            not set ``config`` or fails (the message names the line).
    """
    candidates = [expand(name), *(folder / f"{name}.py" for folder in config_folders())]
    path = next((path for path in candidates if path.suffix == ".py" and path.is_file()), None)
    if path is None:
        known = list_configs()
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {', '.join(known)}."
        raise UserError(f"There is no config {name!r}: {hint}", exit_code=2)
    try:
        config = runpy.run_path(str(path)).get("config")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path}{_line_of(error, path)} fails ({first_line(error)}): correct the recipe.",
            exit_code=2,
        ) from error
    if not isinstance(config, Config):
        raise UserError(f"{path} does not set `config = Config(...)`.", exit_code=2)
    return dataclasses.replace(config, workdir=config.workdir or f"runs/{path.stem}")


def _line_of(error: Exception, path: Path) -> str:
    """Return ``", line 3"`` for an error that came from the third line of a file."""
    called = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in called if frame.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return f", line {lines[-1]}," if lines else ""


def scaled_learning_rate(config: Config) -> float:
    """Return the learning rate after warm-up, scaled by ``base_batch_size`` to the batch size."""
    optimizer = config.optimizer
    base = optimizer.base_batch_size or config.data.batch_size
    return optimizer.learning_rate * config.data.batch_size / base


def flatten(config: Config) -> dict[str, Any]:
    """Return fields by dotted name, ``{"optimizer.learning_rate": 0.1, ...}``, as JSON values."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        inner = value.items() if isinstance(value, dict) else ((None, value),)
        for key, leaf in inner:
            flat[f"{name}.{key}" if key else name] = json.loads(json.dumps(leaf))
    return flat


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings by dotted name, and the defaults of those that they lack.

    A version that adds a setting keeps the numbers of earlier runs by its default.
    """
    return flatten(Config()) | dict(settings)


def unflatten(settings: dict[str, Any]) -> Config:
    """Return the config that ``flatten`` turned into these values; other entries are left out."""

    def build(kind: Any, prefix: str) -> Any:
        values = {}
        for field in dataclasses.fields(kind):
            name = f"{prefix}{field.name}"
            if dataclasses.is_dataclass(field.default_factory):
                values[field.name] = build(field.default_factory, f"{name}.")
            elif name in settings:
                values[field.name] = _as_tuples(settings[name])
        return kind(**values)

    config: Config = build(Config, "")
    return config


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
