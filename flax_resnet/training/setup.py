"""From a config to the parts of a run: data, model, optimiser, first state."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..config import Config, DataConfig, scaled_learning_rate
from ..data import Augmentation, Dataset, Preprocessing, open_dataset
from ..data.images.reading import Interpolation
from ..data.images.records import some
from ..data.opening import FOLDER
from ..errors import UserError
from ..models import QUICK_COMPILATION
from .build import build_augmentation, build_model, build_preprocessing
from .optim import create_optimizer, create_schedule
from .state import StepOptions, TrainState, create_train_state
from .transfer.freezing import partition
from .transfer.start import (
    Phase,
    StartingWeights,
    find_start,
    plan_phases,
    rate_factors,
    scale_by_part,
    starting_variables,
    trained_by,
)


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
      dataset: images and labels of the three splits.
      model: the Linen module.
      options: of the steps; each phase adds what trains.
      preprocessing: from stored pixels to the model's input.
      schedule: learning rate by step, of the head where parts differ.
      phases: which parts train when.
      state: the fresh state, in the first phase.
      total_steps: steps of all epochs.
      start: the weights it starts from, or None for random ones.
      views: how many views of each image the frozen parts were run on once, see features; 0 where
        the data set holds images.
    """

    config: Config
    dataset: Dataset
    model: nn.Module
    options: StepOptions
    preprocessing: Preprocessing
    schedule: optax.Schedule
    phases: tuple[Phase, ...]
    state: TrainState
    total_steps: int
    start: StartingWeights | None = None
    views: int = 0

    @property
    def last_step(self) -> int:
        """Where this call stops: at the end, or at ``max_steps``."""
        return min(self.total_steps, self.config.max_steps or self.total_steps)

    def epoch_at(self, step: int) -> float:
        """Epochs done after ``step`` steps."""
        return step * self.config.data.batch_size / len(self.dataset.train)

    def train_size_at(self, step: int) -> int | None:
        """Height and width of the training images after ``step`` steps; None as in evaluation."""
        epoch = self.epoch_at(step)
        sizes = [size for first, size in self.config.data.train_sizes if first <= epoch]
        return sizes[-1] if sizes else None

    def sized(self, options: StepOptions, size: int | None) -> StepOptions:
        """What a step does to training images of that size, see ``train_size_at``."""
        if size is None or self.dataset.train.streams:
            return options
        augment = options.augment
        if isinstance(augment, Augmentation) and augment.random_resized_crop is not None:
            augment = dataclasses.replace(augment, random_resized_crop=size)
        resized = dataclasses.replace(self.preprocessing, image_size=size)
        return dataclasses.replace(options, augment=augment, train_preprocess=resized)

    def ends_epoch(self, step: int) -> int | None:
        """The number of the epoch that step completes, from 1, or None."""
        epoch = math.floor(self.epoch_at(step))
        return epoch if epoch > math.floor(self.epoch_at(step - 1)) else None

    def evaluation_is_due(self, step: int) -> bool:
        """Whether the schedule has the validation images evaluated after ``step`` steps."""
        epoch = self.ends_epoch(step)
        return step == self.total_steps or bool(epoch and epoch % self.config.evaluate_every == 0)

    @property
    def draws_crops(self) -> bool:
        """Whether training images that stream are chosen or cropped by draws."""
        return self.config.augment.random_resized_crop or self.views > 1

    def phase_at(self, step: int) -> Phase:
        """The phase that step ``step``, from 0, belongs to."""
        return [phase for phase in self.phases if phase.first_step <= max(step, 0)][-1]

    def in_phase(self, state: TrainState, phase: Phase) -> TrainState:
        """``state`` about to take the first step of ``phase``: with the optimiser's state of what
        trains there, made anew, as what has just been freed has no past in it."""
        parts = getattr(self.model, "stages", ())
        schedule = self.schedule
        tx = create_optimizer(self.config.optimizer, lambda step: schedule(step + phase.first_step))
        factors = rate_factors(self.config.transfer, parts)
        if set(factors.values()) - {1.0}:
            tx = optax.chain(tx, scale_by_part(factors))
        frozen_affine = bool(self.config.model.frozen_affine)
        trainable = trained_by(phase, parts, self.config.transfer, frozen_affine)
        model = self.model
        if phase.freeze_before and self.config.transfer.statistics == "frozen":
            model = model.clone(freeze_before=phase.freeze_before)
        opt_state = jax.jit(tx.init)(partition(state.params, trainable)[0])
        options = dataclasses.replace(self.options, trainable=trainable)
        return dataclasses.replace(state, model=model, tx=tx, options=options, opt_state=opt_state)


def prepare(config: Config) -> Run:
    """Load the data and build the rest.

    Raises:
      UserError: missing or damaged data or weights, an unknown model or option.
    """
    model = build_model(config.model, num_classes=10)  # fails on a wrong name before data is read
    parts = getattr(model, "stages", ())
    if not parts and config.transfer.mode != "full":
        raise UserError(f"{config.model.name} trains in mode full only.", exit_code=2)
    plan_phases(config.transfer, parts, 1, 1)  # fails on a wrong part
    start = find_start(config.transfer.weights, config.model.name)
    dataset = open_dataset(_as_expected(config.data, start), config.augment)
    _check_labels(dataset, config)
    model = build_model(config.model, num_classes=len(dataset.classes))
    total_steps = math.ceil(config.epochs * len(dataset.train) / config.data.batch_size)
    info = None if start is None else start.info
    preprocessing = build_preprocessing(dataset, config.data.image_size, info)
    augment, mix = build_augmentation(config.augment, config.data.image_size, dataset)
    options = StepOptions(
        augment=augment,
        preprocess=preprocessing,
        mix=mix,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        evaluate_flipped=config.evaluate_flipped,
        ema_decay=config.ema_decay,
    )
    sample = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.uint8)
    # One compiled program instead of thousands of small operations.
    init = jax.jit(
        lambda key: create_train_state(model, optax.identity(), key, sample, options),
        compiler_options=QUICK_COMPILATION,
    )
    key = jax.random.key(config.seed)
    state = init(key)
    if start is not None:
        state = _started_from(state, starting_variables(start, model, key))
    run = Run(
        config,
        dataset,
        model,
        options,
        preprocessing,
        create_schedule(
            dataclasses.replace(config.optimizer, learning_rate=scaled_learning_rate(config)),
            total_steps,
            config.epochs,
        ),
        plan_phases(config.transfer, parts, total_steps, config.epochs),
        state,
        total_steps,
        start,
    )
    return dataclasses.replace(run, state=run.in_phase(state, run.phases[0]))


def _as_expected(data: DataConfig, start: StartingWeights | None) -> DataConfig:
    """The section with what it leaves open filled in as the starting weights expect it."""
    if start is None:
        return data
    info = start.info
    size = data.image_size or info.crop
    known: Interpolation = "bicubic" if info.interpolation == "bicubic" else "bilinear"
    return dataclasses.replace(
        data,
        image_size=size,
        resize=data.resize or round(size * info.resize / info.crop),
        interpolation=data.interpolation or known,
    )


def _check_labels(dataset: Dataset, config: Config) -> None:
    """Raises UserError where the labels do not suit the loss, or a class cannot be learned."""
    if dataset.multi_label:
        if config.loss != "sigmoid":
            raise UserError(
                f"The images of {dataset.name} have any number of classes each: use --loss "
                "sigmoid.",
                exit_code=2,
            )
        return
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    lacking = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if lacking and config.data.name == FOLDER:
        raise UserError(
            f"{config.data.dir}: no training image of {some(lacking)}; add images there, ten or "
            "more of a class, or take these classes out."
        )


def _started_from(state: TrainState, variables: Mapping[str, Any]) -> TrainState:
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    ema = None
    if state.ema is not None:  # a copy: a donated state must not hold the same buffer twice
        ema = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    return dataclasses.replace(state, params=params, batch_stats=batch_stats, ema=ema)
