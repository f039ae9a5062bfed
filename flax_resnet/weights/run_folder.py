"""A run's folder as prediction reads it: settings, classes, transform and weights."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..config import stored_loss, stored_model_config
from ..errors import UserError
from ..models import ResNet
from ..output_files import write_json
from ..storage import is_remote, mirror
from ..text_files import read_run_file
from ..transform import EvalTransform
from .architecture import build_model
from .convert import to_torchvision
from .description import describe
from .formats.checkpoint import checkpoint_steps, read_checkpoint
from .formats.files import read_metadata, read_weights, write_model
from .info import LoadedWeights, WeightsInfo
from .sealed_files import check_sealed

RUN_WEIGHTS = "model.safetensors"

# Metadata of RUN_WEIGHTS: steps behind its weights, and steps of the run when it was written.
_STEP, _LAST_STEP = "step", "last_step"


def description(classes: Sequence[str], transform: EvalTransform) -> dict[str, Any]:
    """Return the values of the files that hold the classes and the transform, by file name.

    ``classes.json`` lists the names, ``class_indices.json`` has them by number, and
    ``preprocessing.json`` holds the fields of ``transform``.
    """
    return {
        "classes.json": list(classes),
        "class_indices.json": {str(index): name for index, name in enumerate(classes)},
        "preprocessing.json": transform.to_json(),
    }


def write_description(folder: Path, classes: Sequence[str], transform: EvalTransform) -> None:
    """Write the classes and the transform that prediction reads, see ``description``."""
    for name, value in description(classes, transform).items():
        write_json(folder / name, value)


def write_run_weights(
    folder: Path, variables: Mapping[str, Any], model: ResNet, *, step: int, last_step: int
) -> Path:
    """Write ``model.safetensors``, the weights of a finished run, under torchvision's names.

    The file also holds the run's classes and transform, so that it predicts as the run does where
    it is copied alone.

    Args:
        folder: The run's folder, with its settings, classes and transform.
        variables: ``{"params", "batch_stats"}`` of the best checkpoint, of the moving average
            where there is one.
        model: The module that they belong to, with all its stages.
        step: Training steps behind the weights.
        last_step: Training steps of the run; a newer checkpoint makes the file stale.

    Returns:
        The path of the file. An interrupted call leaves none.

    Raises:
        UserError: The file cannot be written, or the run's description cannot be read.
    """
    metadata = {_STEP: str(step), _LAST_STEP: str(last_step)} | describe(_read_info(folder))
    path = folder / RUN_WEIGHTS
    write_model(path, to_torchvision(variables, model), model, metadata)
    return path


def read_run(folder: Path, source: str | None = None) -> LoadedWeights:
    """Read the best weights of a run, and their description.

    They are those of ``model.safetensors`` if the run is finished, else of a checkpoint.

    Args:
        folder: The run's folder.
        source: What the caller wrote for it, for the description.

    Raises:
        UserError: The folder is not a run's, holds no weights yet, or a file in it is damaged.
    """
    info = _read_info(folder, source)
    step, tensors = _read_weights(folder, build_model(info.config, len(info.classes)))
    info = dataclasses.replace(info, step=step)
    return LoadedWeights(info, tensors)


def _read_info(folder: Path, source: str | None = None) -> WeightsInfo:
    """Return the description of a run, without the step of its weights."""
    check_sealed(folder)
    settings, classes, preprocessing = (
        read_run_file(folder, f"{name}.json") for name in ("config", "classes", "preprocessing")
    )
    try:
        prefix = "model."
        model = {
            name.removeprefix(prefix): value
            for name, value in settings.items()
            if name.startswith(prefix)
        }
        if "loss" in settings:
            stored_loss(settings["loss"])
        return WeightsInfo(
            source=source or str(folder),
            kind="run",
            path=folder,
            config=stored_model_config(model),
            classes=tuple(map(str, classes)),
            transform=EvalTransform.from_json(preprocessing),
            settings=settings,
        )
    except (TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"The settings in {folder} are not those of a run of this version ({error})."
        ) from error


def _read_weights(folder: Path, model: ResNet) -> tuple[int, Mapping[str, Any]]:
    """Return the step and the arrays in PyTorch's layout."""
    path = folder / RUN_WEIGHTS
    if path.is_file():
        metadata = read_metadata(path)
        step, last_step = (int(metadata.get(name, 0)) for name in (_STEP, _LAST_STEP))
        # A run that trained further has a newer checkpoint.
        if newest_checkpoint(folder) <= last_step:
            return step, read_weights(path)
    step, variables = read_checkpoint(folder / "checkpoints")
    try:
        return step, to_torchvision(variables, model)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def is_small(name: str) -> bool:
    """Return whether a file of a run, by its name below the run's folder, is neither a checkpoint
    nor a step that was kept for debugging."""
    return not name.startswith(("checkpoints/", "debug/", ".lock"))


def local_run(folder: Path, *, checkpoints: bool = False) -> Path:
    """Return a local copy of a run's folder, with what prediction reads.

    Args:
        folder: The folder; a local one is returned as it is.
        checkpoints: Whether its checkpoints are copied even if ``model.safetensors`` is newer.

    Raises:
        UserError: It cannot be read.
    """
    if not is_remote(folder):
        return folder
    steps = {str(step) for step in checkpoint_steps(folder / "checkpoints")}

    def is_complete(name: str) -> bool:
        parts = PurePosixPath(name).parts
        return is_small(name) or (parts[0] == "checkpoints" and parts[1] in steps)

    def is_read(name: str) -> bool:
        return is_complete(name) and "/default/" not in name  # not the arrays of checkpoints

    local = mirror(folder, is_complete if checkpoints else is_read)
    path = local / RUN_WEIGHTS
    for former in (local / "checkpoints").glob("*"):
        if former.name not in steps:
            shutil.rmtree(former)
    if path.is_file() and newest_checkpoint(local) <= int(read_metadata(path).get(_LAST_STEP, 0)):
        return local
    return mirror(folder, is_complete)


def newest_checkpoint(folder: Path) -> int:
    """Return the step of the newest checkpoint, -1 without one."""
    return max(checkpoint_steps(folder / "checkpoints"), default=-1)
