"""Transfer learning: the weights a run starts from, and what trains when."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from ...config import Config, ModelConfig, TransferConfig
from ...errors import UserError
from ...models import ResNet, default_image_shape, stage_of
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
from ..segments import Phase
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


def starting_variables(start: StartingWeights, model: ResNet, key: jax.Array) -> Mapping[str, Any]:
    """The variables of ``model`` with the starting weights, and a fresh head drawn by ``key``.

    Raises:
        UserError: the weights do not fit the model: all that is wrong is listed.
    """
    try:
        return from_torchvision(start.tensors, model, head="drop", key=key)
    except UserError as error:
        raise UserError(f"{start.source}: {error}") from error


@dataclass(frozen=True)
class TrainableFrom:
    """Whether the parameter at a path trains: those of the stage ``first`` and of later ones do.

    Attributes:
        stages: Those of the model, first to last.
        first: The first stage that trains.
        affine_above: Whether batch norm's scale and bias train in the stages that train.
        affine_below: Whether they train in the other stages.
    """

    stages: tuple[str, ...]
    first: str
    affine_above: bool = True
    affine_below: bool = False

    def __call__(self, path: ParameterPath) -> bool:
        stage = stage_of(path[0], self.stages[-2])
        trains = self.stages.index(stage) >= self.stages.index(self.first)
        is_affine = any("bn" in name for name in path[:-1])
        if is_affine:
            return self.affine_above if trains else self.affine_below
        return trains


def trainable_in(
    phase: Phase, stages: Sequence[str], transfer: TransferConfig, frozen_affine: bool
) -> TrainableFrom | None:
    """The predicate ``TrainStep.trainable`` of a phase; None where all parameters train."""
    if phase.freeze_before is None and not frozen_affine:
        return None
    affine_below = transfer.affine == "trained" and not frozen_affine
    first = phase.freeze_before or stages[0]
    return TrainableFrom(tuple(stages), first, not frozen_affine, affine_below)


def rate_factors(config: TransferConfig, stages: Sequence[str]) -> dict[str, float]:
    """The learning rate of each stage divided by that of the head, the head first."""
    decay = config.layer_decay
    if decay is None:
        decay = ULMFIT_DECAY if config.mode == "gradual" else 1.0
    return {stage: decay**depth for depth, stage in enumerate(reversed(stages))}


def scale_by_stage(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the update of each stage by its factor; last in a chain, it scales the rate."""
    last = list(factors)[1]  # the head is first

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * factors[stage_of(path[0].key, last)]

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def choose_views(config: TransferConfig, *, mixes: bool) -> int:
    """How many views of each image the frozen stages run on once; 0 to run them at every step.

    Args:
        config: The transfer section of the settings.
        mixes: Whether training mixes images (mixup, CutMix).

    Raises:
        UserError: Views are asked for where the output of the frozen stages changes between steps.
    """
    if config.mode not in ("head", "partial"):
        reason = f"in mode {config.mode} no stage is frozen throughout"
    elif config.statistics == "updated" or config.affine == "trained":
        reason = "the batch norm of the frozen stages changes"
    elif mixes:
        reason = "mixup and CutMix mix images"
    elif config.views is None:
        return 1 if config.mode == "head" else 0
    else:
        return config.views
    if config.views:
        raise UserError(
            f"--views {config.views}: features cannot be computed once, because {reason}: leave "
            "the option out.",
            exit_code=2,
        )
    return 0


def choose_solver(config: Config, views: int) -> str:
    """The solver of the head: ``"lbfgs"`` or ``"sgd"``, see ``config.TransferConfig``.

    Raises:
        UserError: L-BFGS is asked for where it cannot be used.
    """
    is_possible = (
        views > 0
        and config.transfer.mode == "head"
        and not config.model.hidden
        and config.loss == "softmax"
    )
    if config.transfer.solver == "lbfgs" and not is_possible:
        raise UserError(
            "--solver lbfgs needs --mode head with a linear head, --loss softmax and --views 1 or "
            "more: leave it out, or use --solver sgd.",
            exit_code=2,
        )
    return config.transfer.solver or ("lbfgs" if is_possible else "sgd")
