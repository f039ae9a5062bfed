"""Transfer learning: the weights a run starts from, and what trains when."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax

from ...config import Config, ModelConfig, TransferConfig
from ...errors import UserError
from ...models import default_image_shape, stage_of
from ...weights import (
    InferredModel,
    PretrainedInfo,
    find_weights,
    from_torchvision,
    infer_model,
    read_weights,
    to_torchvision,
    torchvision_names,
)
from ..build import build_model
from ..saved_variables import read_variables
from .freezing import Path as ParameterPath

ULMFIT_DECAY = 1 / 2.6  # Howard & Ruder 2018, section 3.2


@dataclass(frozen=True)
class StartingWeights:
    """Weights that a run starts from.

    Attributes:
      source: the file or the run's folder.
      tensors: their arrays, by the names they have there.
      model: which model they are of.
      info: how images were prepared for them; its classes are those of a run, else none.
    """

    source: Path
    tensors: Mapping[str, Any]
    model: InferredModel
    info: PretrainedInfo


def find_start(weights: str, name: str | None) -> StartingWeights | None:
    """The weights that ``transfer.weights`` names, or None for ``"none"``.

    Args:
      weights: see config.TransferConfig.
      name: of the model; None takes the model that a file or folder is of.

    Raises:
      UserError: they cannot be had (with the ways on), are damaged, or are of another model.
    """
    if weights == "none":
        return None
    path = Path(weights).expanduser()
    plain = path.is_file()
    if (path / "checkpoints").is_dir():
        tensors, info = _read_run(path)
    else:
        path, info = find_weights(name or "", str(path) if path.exists() else weights)
        tensors = read_weights(path)
    names = torchvision_names(tensors)
    try:
        model = infer_model({key: tensors[names[key]].shape for key in names})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if name not in (None, model.name):
        raise UserError(
            f"{path} holds weights of {model}, not of {name}: use --model {model.name}, or other "
            "--weights."
        )
    if plain:  # the file says nothing of the images
        size, _, _ = default_image_shape(model.create())
        info = dataclasses.replace(info, crop=size, resize=round(size * 256 / 224))
    return StartingWeights(path, tensors, model, info)


def _read_run(folder: Path) -> tuple[Mapping[str, Any], PretrainedInfo]:
    """A run's best weights, by torchvision's names, and how it prepared its images."""
    try:
        settings, classes, prepared = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("config", "classes", "preprocessing")
        )
        fields = {field.name for field in dataclasses.fields(ModelConfig)}
        model = {name: settings[f"model.{name}"] for name in fields if f"model.{name}" in settings}
        facts: dict[str, Any] = {key: tuple(prepared[key]) for key in ("mean", "std")}
        if framing := prepared.get("framing"):
            facts |= {"crop": framing["height"], "interpolation": framing["interpolation"]}
            facts |= {"resize": framing["resize"] or framing["height"]}
        module = build_model(ModelConfig(**model), len(classes))
        info = PretrainedInfo(folder, tuple(classes), **facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--weights {folder} cannot be read as a run's folder ({error}): give one that a "
            "training run of this version wrote, or a file of weights."
        ) from error
    _, variables = read_variables(folder / "checkpoints")
    return to_torchvision(variables, module), info


def starting_variables(
    start: StartingWeights, model: nn.Module, key: jax.Array
) -> Mapping[str, Any]:
    """The variables of ``model`` with the starting weights, and a fresh head drawn by ``key``.

    Raises:
      UserError: the weights do not fit the model: all that is wrong is listed.
    """
    try:
        return from_torchvision(start.tensors, model, head="drop", key=key)
    except UserError as error:
        raise UserError(f"{start.source}: {error}") from error


@dataclass(frozen=True)
class Phase:
    """Steps in which the same parts train.

    Attributes:
      first_step: the step it starts at, from 0.
      freeze_before: the first part that trains; None where all do.
    """

    first_step: int
    freeze_before: str | None


def plan_phases(
    config: TransferConfig, parts: Sequence[str], total_steps: int, epochs: float
) -> tuple[Phase, ...]:
    """The phases of a run, a function of its settings alone.

    Args:
      parts: of the model, first to last, see models.ResNet.
      total_steps, epochs: of the whole run.

    Raises:
      UserError: ``freeze_before`` names no part, or the mode has no use for it.
    """
    lowest = config.freeze_before
    if lowest is not None and lowest not in parts:
        raise UserError(
            f"--freeze-before {lowest}: the model has no such part; its parts are "
            f"{', '.join(parts)}.",
            exit_code=2,
        )
    if lowest is not None and config.mode in ("full", "head"):
        raise UserError(
            f"--freeze-before has no meaning in mode {config.mode}: use --mode partial or gradual.",
            exit_code=2,
        )
    if config.mode == "full":
        return (Phase(0, None),)
    if config.mode == "head":
        return (Phase(0, parts[-1]),)
    if config.mode == "partial":
        return (Phase(0, lowest or parts[-2]),)
    downwards = parts[parts.index(lowest or parts[0]) :][::-1]
    epochs_each = min(config.unfreeze_epochs, epochs / len(downwards))
    steps_each = epochs_each * total_steps / epochs
    return tuple(
        Phase(round(i * steps_each), None if part == parts[0] else part)
        for i, part in enumerate(downwards)
    )


@dataclass(frozen=True)
class TrainedFrom:
    """Whether the parameter at a path trains: those of the part ``first`` and of the parts after.

    Attributes:
      stages: of the model, first to last.
      first: the first part that trains.
      affine_above, affine_below: whether batch norm's scale and bias train in the parts that do,
        and in the others.
    """

    stages: tuple[str, ...]
    first: str
    affine_above: bool = True
    affine_below: bool = False

    def __call__(self, path: ParameterPath) -> bool:
        part = stage_of(path[0], self.stages[-2])
        above = self.stages.index(part) >= self.stages.index(self.first)
        is_affine = any("bn" in name for name in path[:-1])
        if is_affine:
            return self.affine_above if above else self.affine_below
        return above


def trained_by(
    phase: Phase, parts: Sequence[str], transfer: TransferConfig, frozen_affine: bool
) -> TrainedFrom | None:
    """The predicate of a phase, for StepOptions; None where all parameters train."""
    if phase.freeze_before is None and not frozen_affine:
        return None
    below = transfer.affine == "trained" and not frozen_affine
    first = phase.freeze_before or parts[0]
    return TrainedFrom(tuple(parts), first, not frozen_affine, below)


def rate_factors(config: TransferConfig, parts: Sequence[str]) -> dict[str, float]:
    """Each part's learning rate over the head's."""
    decay = config.layer_decay
    if decay is None:
        decay = ULMFIT_DECAY if config.mode == "gradual" else 1.0
    return {part: decay**depth for depth, part in enumerate(reversed(parts))}


def scale_by_part(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each part's update by its factor; last in a chain, that is its learning rate."""
    last = list(factors)[1]  # the head is first

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * factors[stage_of(path[0].key, last)]

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def choose_solver(config: Config, views: int) -> str:
    """``"lbfgs"`` or ``"sgd"``, see config.TransferConfig, where there are so many views.

    Raises:
      UserError: L-BFGS is asked for where it cannot be had.
    """
    possible = (
        views > 0
        and config.transfer.mode == "head"
        and not config.model.hidden
        and config.loss == "softmax"
    )
    if config.transfer.solver == "lbfgs" and not possible:
        raise UserError(
            "--solver lbfgs needs --mode head with a linear head, --loss softmax and --views 1 or "
            "more: leave it out, or use --solver sgd.",
            exit_code=2,
        )
    return config.transfer.solver or ("lbfgs" if possible else "sgd")
