"""A run's folder and its settings."""

import json
from pathlib import Path

from ..config import RESUME_MAY_CHANGE, Config, flatten
from ..errors import UserError
from ..output_files import write_json
from ..paths import expand


def open_workdir(config: Config, write: bool = True) -> Path:
    """Create the run's folder if it does not exist, and write ``config.json`` into it.

    Args:
        config: The settings of the run.
        write: Whether this process writes; of several processes the first one does.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds a run with other settings (each difference is named), or cannot
            be written.
    """
    workdir = expand(config.workdir or "runs/run")
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
        if write:
            write_json(path, settings)
    except OSError as error:
        raise UserError(f"The run's folder {workdir} cannot be written: {error}.") from error
    return workdir
