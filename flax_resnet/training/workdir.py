"""A run's folder: its settings, classes and preprocessing as JSON files."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import RESUME_MAY_CHANGE, Config, flatten
from ..data import Framing, Preprocessing
from ..errors import UserError


def open_workdir(config: Config, write: bool = True) -> Path:
    """The run's folder, made if need be, with ``config.json`` in it.

    Raises:
      UserError: the folder holds a run with other settings (each difference is named), or cannot
        be written.
    """
    workdir = Path(config.workdir or "runs/run")
    path = workdir / "config.json"
    settings = flatten(config)
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            names = [*settings, *(name for name in before if name not in settings)]
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is not readable as JSON ({error}): choose another --workdir."
            ) from error
        differences = [
            f"{name} was {before.get(name)!r}, is now {settings.get(name)!r}"
            for name in names
            if before.get(name) != settings.get(name) and name not in RESUME_MAY_CHANGE
        ]
        if differences:
            raise UserError(
                f"{workdir} holds a run with other settings: {'; '.join(differences)}. "
                "Choose another --workdir, or delete that folder to start afresh."
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if write:  # of several processes only the first
            write_json(path, settings)
    except OSError as error:
        raise UserError(f"The run's folder {workdir} cannot be written: {error}.") from error
    return workdir


def write_description(
    workdir: Path, classes: Sequence[str], preprocessing: Preprocessing, framing: Framing
) -> None:
    """Write what prediction needs to know: ``classes.json``, the same by number as
    ``class_indices.json``, and ``preprocessing.json``, from an image file to the model's input."""
    write_json(workdir / "classes.json", list(classes))
    numbered = {str(index): name for index, name in enumerate(classes)}
    write_json(workdir / "class_indices.json", numbered)
    settings = dataclasses.asdict(preprocessing) | {"framing": dataclasses.asdict(framing)}
    write_json(workdir / "preprocessing.json", settings)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)
