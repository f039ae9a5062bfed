"""Transfer learning: the weights a run starts from, and what trains when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax

from ...config import Config, ModelConfig, TransferConfig
from ...errors import UserError
from ...models import ResNet, stage_of
from ...weights import LoadedWeights, build_model, load_source, read_unseen_options
from ...weights.infer import UNSEEN_OPTIONS
from ..segments import Phase
from .freezing import Path as ParameterPath

ULMFIT_DECAY = 1 / 2.6  # Howard & Ruder 2018, section 3.2


def find_start(weights: str, name: str | None) -> LoadedWeights | None:
    """Load the weights that a run starts from, or return None for ``"none"``.

    Args:
        weights: See config.TransferConfig.
        name: Name of the model; None for the one that the weights belong to.

    Raises:
        UserError: The weights cannot be loaded (the message names the alternatives), are damaged,
            or are of another model.
    """
    return None if weights == "none" else load_source(weights, model=name)


def check_unseen_options(start: LoadedWeights, config: ModelConfig) -> None:
    """Check that the model of a run computes what that of its starting weights does.

    Options that names and shapes of arrays do not show are compared.

    Args:
        start: The weights.
        config: The model section of the settings.

    Raises:
        UserError: They differ; the message has the options to give.
    """
    info = start.info
    theirs = _unseen_options(build_model(info.config, 2, **info.model_options))
    ours = _unseen_options(build_model(config, 2))
    # A file of another program does not tell them: what is inferred is only what is usual.
    is_known = info.kind != "file" or info.path is None or bool(read_unseen_options(info.path))
    differing = {
        option: value
        for option, value in theirs.items()
        if value != ours[option] and (is_known or getattr(config, option, None) is None)
    }
    if not differing:
        return
    named = ", ".join(
        f"{option}={value!r} (this run's has {ours[option]!r})"
        for option, value in differing.items()
    )
    if unknown := [option for option in differing if not hasattr(config, option)]:
        remedy = f"no setting of a run says {' or '.join(unknown)}, so choose other weights"
    else:
        words = [f"--model.{name.replace('_', '-')} {differing[name]}" for name in differing]
        remedy = f"add {' '.join(words)}"
    raise UserError(f"{info.path} holds weights of a model with {named}: {remedy}.")


def _unseen_options(model: ResNet) -> dict[str, Any]:
    """The options of a model that arrays do not show, the same where it computes the same."""
    options = {option: getattr(model, option) for option in UNSEEN_OPTIONS}
    if model.block == "basic" and model.version == "v1":
        options["version"] = "v1.5"  # they differ in bottlenecks only
    options["stem_pool"] = model.pool_after_stem
    if model.stage_strides == model.clone(output_stride=None).stage_strides:
        options["output_stride"] = None
    return options


@dataclass(frozen=True)
class TrainableFrom:
    """Predicate of a parameter's path: true in the stage ``first`` and in later ones.

    Attributes:
        stages: Those of the model, first to last.
        first: The first stage that trains.
        affine_above: Whether batch norm's scale and bias train in the stages that train.
        affine_below: Whether batch norm's scale and bias train in the frozen stages.
        whitened_stem: Whether the kernel of the first convolution stays as it was computed.
    """

    stages: tuple[str, ...]
    first: str
    affine_above: bool = True
    affine_below: bool = False
    whitened_stem: bool = False

    def __call__(self, path: ParameterPath) -> bool:
        if self.whitened_stem and path == ("conv1", "kernel"):
            return False
        stage = stage_of(path[0], self.stages[-2])
        trains = self.stages.index(stage) >= self.stages.index(self.first)
        is_affine = any("bn" in name for name in path[:-1])
        if is_affine:
            return self.affine_above if trains else self.affine_below
        return trains


def trainable_in(phase: Phase, stages: Sequence[str], config: Config) -> TrainableFrom | None:
    """The predicate ``TrainStep.trainable`` of a phase; None where all parameters train."""
    frozen_affine = bool(config.model.frozen_affine)
    if phase.freeze_before is None and not frozen_affine and not config.whitened_stem:
        return None
    return TrainableFrom(
        tuple(stages),
        phase.freeze_before or stages[0],
        affine_above=not frozen_affine,
        affine_below=config.transfer.affine == "trained" and not frozen_affine,
        whitened_stem=config.whitened_stem,
    )


def rate_factors(config: TransferConfig, stages: Sequence[str]) -> dict[str, float]:
    """The learning rate of each stage divided by that of the head, the head first."""
    decay = config.layer_decay
    if decay is None:
        decay = ULMFIT_DECAY if config.mode == "gradual" else 1.0
    return {stage: decay**depth for depth, stage in enumerate(reversed(stages))}


def scale_by_stage(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the update of each stage by its factor.

    Last in a chain of optax, it scales the learning rate.
    """
    last = list(factors)[1]  # the head is first

    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        return update * factors[stage_of(path[0].key, last)]

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def choose_views(config: Config, *, mixes: bool) -> int:
    """The number of views of each image whose features are computed once and kept.

    A view is the image itself, or one augmented copy of it. 0 runs the frozen stages at every step.

    Args:
        config: The settings.
        mixes: Whether training mixes images (mixup, CutMix).

    Raises:
        UserError: Views are asked for where the output of the frozen stages changes between steps,
            or is needed of other images too.
    """
    transfer = config.transfer
    if transfer.mode not in ("head", "partial"):
        reason = f"in mode {transfer.mode} no stage is frozen throughout"
    elif transfer.statistics == "updated" or transfer.affine == "trained":
        reason = "the batch norm of the frozen stages changes"
    elif mixes:
        reason = "mixup and CutMix mix images"
    elif config.evaluate_flipped:  # mirrored features are not those of the mirrored image
        reason = "--evaluate-flipped needs the images, to mirror them"
    elif config.data.train_sizes:
        reason = "--data.train-sizes changes the size of the images"
    elif transfer.views is None:
        return 1 if transfer.mode == "head" else 0
    else:
        return transfer.views
    if transfer.views:
        raise UserError(
            f"--views {transfer.views}: features cannot be computed once, because {reason}: leave "
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
        and not config.model.dropout
        and config.loss == "softmax"
        and not config.label_smoothing
        and config.data.sampling is None
    )
    if config.transfer.solver == "lbfgs" and not is_possible:
        raise UserError(
            "--solver lbfgs needs --mode head with a linear head, --loss softmax, --views 1 or "
            "more, and no --dropout, --label-smoothing or --data.sampling: leave it out, or use "
            "--solver sgd.",
            exit_code=2,
        )
    return config.transfer.solver or ("lbfgs" if is_possible else "sgd")
