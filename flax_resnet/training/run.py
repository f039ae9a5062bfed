"""A run: the objects that the training loop needs; ``resolve`` makes them of settings."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from ..config import Config, scaled_learning_rate
from ..data import (
    Augmentation,
    BalancedOrder,
    Dataset,
    Order,
    Prefetch,
    Preprocessing,
    ShardOrder,
    Split,
    batch_indices,
    epoch_order,
    shards_of,
    train_batches,
)
from ..models import QUICK_COMPILATION, ResNet
from ..transform import EvalTransform
from ..weights import LoadedWeights
from .memory import check_memory
from .mesh import local_shard
from .optim import create_optimizer, create_schedule
from .partitioning import Partitioning, compile_step
from .segments import Phase, Segment, phase_at, plan_phases, plan_segments, size_at
from .state import TrainState
from .step import TrainStep
from .transfer.start import rate_factors, scale_by_stage, trainable_in
from .whitening import with_whitened_stem


@dataclass(frozen=True)
class Run:
    """The objects that a run consists of, but for its arrays.

    Attributes:
        config: The settings.
        dataset: Images and labels of the three splits.
        step: The train step, with all stages training at the usual image size; ``step_for`` gives
            that of a segment.
        transform: How evaluation turns an image file into the model's input.
        schedule: Learning rate by step; that of the head where stages differ.
        phases: Which stages train when.
        total_steps: Steps of all epochs.
        partitioning: How arrays are partitioned over devices.
        start: The weights that the run starts from, or None for random ones.
        views: Number of views of each image that the frozen stages run on once; 0 where they run at
            every step.
        solver: ``"sgd"``, or ``"lbfgs"`` for a linear head on kept features.
    """

    config: Config
    dataset: Dataset
    step: TrainStep
    transform: EvalTransform
    schedule: optax.Schedule
    phases: tuple[Phase, ...]
    total_steps: int
    partitioning: Partitioning
    start: LoadedWeights | None
    views: int
    solver: str

    @property
    def model(self) -> ResNet:
        """The Linen module."""
        return cast(ResNet, self.step.model)

    @property
    def last_step(self) -> int:
        """The step after which this call stops: the last one, or ``max_steps``."""
        return min(self.total_steps, self.config.max_steps or self.total_steps)

    def epoch_at(self, step: int) -> float:
        """Epochs done after ``step`` steps."""
        return step * self.config.data.batch_size / len(self.dataset.train)

    def completed_epoch(self, step: int) -> int | None:
        """The number of the epoch that the ``step``-th step completes, from 1, or None."""
        epoch = math.floor(self.epoch_at(step))
        return epoch if epoch > math.floor(self.epoch_at(step - 1)) else None

    def evaluation_is_due(self, step: int) -> bool:
        """Whether the schedule evaluates the validation images after ``step`` steps."""
        epoch = self.completed_epoch(step)
        return step == self.total_steps or bool(epoch and epoch % self.config.evaluate_every == 0)

    def evaluates_at(self, step: int) -> bool:
        """Whether the loop evaluates after ``step`` steps: where it is due, and at the end."""
        return self.evaluation_is_due(step) or step == self.last_step

    def phase_at(self, step: int) -> Phase:
        """The phase that step ``step``, from 0, belongs to."""
        return phase_at(self.phases, step)

    def segments(self, start: int) -> list[Segment]:
        """The segments of the steps from ``start`` to the last."""
        return plan_segments(self.phases, self._image_sizes(), start, self.last_step)

    def image_size_at(self, step: int) -> int | None:
        """Height and width of the training images in step ``step``; None as in evaluation."""
        return size_at(self._image_sizes(), step)

    def _image_sizes(self) -> list[tuple[int, int]]:
        """Pairs of a first step and the training images' size from there on."""
        images, batch_size = len(self.dataset.train), self.config.data.batch_size
        return [
            (math.ceil(epoch * images / batch_size), size)
            for epoch, size in self.config.data.train_sizes
        ]

    def samples(self, step: int) -> list[int]:
        """Indices into the training set of the images of step ``step``, from 0."""
        config = self.config
        return batch_indices(
            config.seed,
            step,
            config.data.batch_size,
            len(self.dataset.train),
            config.augment.repeats,
            self._order,
        ).tolist()

    def batches(self, start: int) -> Prefetch:
        """The batches of the steps from ``start`` to the last, on the devices."""
        crops = self.config.augment.random_resized_crop or self.views > 1
        return Prefetch(
            train_batches(
                self.dataset.train,
                seed=self.config.seed,
                batch_size=self.config.data.batch_size,
                start=start,
                stop=self.last_step,
                random_crops=crops,
                # Features are of images that are not mirrored.
                alternating_flip=self.config.augment.alternating_flip and not self.views,
                repeats=self.config.augment.repeats,
                size_at=self.image_size_at,
                shard=local_shard(),
                order=self._order,
            ),
            self.partitioning.put_batch,
        )

    @functools.cached_property
    def _order(self) -> Order:
        if self.config.data.sampling == "balanced":
            return BalancedOrder(self.dataset.train.labels)
        if self.config.data.shuffle == "shards":
            different = self.config.data.batch_size // self.config.augment.repeats
            return ShardOrder(shards_of(self.dataset.train), different)
        return epoch_order

    def with_epochs(self, epochs: int) -> "Run":
        """The run with another number of epochs: its steps, their learning rates and phases."""
        config = dataclasses.replace(self.config, epochs=epochs)
        steps, schedule, phases = plan_steps(config, len(self.dataset.train), self.model.stages)
        return dataclasses.replace(
            self, config=config, total_steps=steps, schedule=schedule, phases=phases
        )

    def step_for(self, phase: Phase, image_size: int | None = None) -> TrainStep:
        """The train step in ``phase`` on training images of ``image_size``."""
        config, stages = self.config, self.model.stages
        tx = create_optimizer(config.optimizer, lambda step: self.schedule(step + phase.first_step))
        factors = rate_factors(config.transfer, stages)
        if set(factors.values()) - {1.0}:
            tx = optax.chain(tx, scale_by_stage(factors))
        freezes_statistics = config.transfer.statistics == "frozen"
        step = dataclasses.replace(
            self.step,
            tx=tx,
            trainable=trainable_in(phase, stages, config),
            freeze_before=phase.freeze_before if freezes_statistics else None,
        )
        if image_size is None or self.dataset.train.streams:
            return step  # images that are streamed arrive in the right size
        augment = step.augment
        if isinstance(augment, Augmentation) and augment.random_resized_crop is not None:
            augment = dataclasses.replace(augment, random_resized_crop=image_size)
        preprocess = Preprocessing(self.transform.mean, self.transform.std, image_size)
        return dataclasses.replace(step, augment=augment, train_preprocess=preprocess)

    def init(self) -> TrainState:
        """The state before the first step: random weights, or the starting weights with a fresh
        head drawn by the same key."""
        step = self.step_for(self.phase_at(0))
        key = jax.random.key(self.config.seed)
        # One compiled program instead of thousands of small operations.
        jitted = partial(jax.jit, compiler_options=QUICK_COMPILATION)
        if self.start is None:
            state: TrainState = jitted(partial(step.init, sample=self.sample))(key)
            if not self.config.whitened_stem:
                return state
            preprocess = Preprocessing.from_transform(self.transform)
            images = cast(Split, self.dataset.train).images
            params = with_whitened_stem(state.params, preprocess, images)
            variables = {"params": params, "batch_stats": state.batch_stats}
            run_key = state.key
        else:
            variables = self.start.variables_of(
                self.model,
                keep_classifier=False,
                key=key,
                in_channels_init=self.config.transfer.in_channels_init,
            )
            run_key = jax.random.key_data(jax.random.split(key)[1])
        return jitted(step.init_from)(variables, run_key)

    def check_memory(
        self,
        compiled: jax.stages.Compiled,
        step: TrainStep,
        state: TrainState,
        sums: Any,
        batch: Any,
    ) -> None:
        """Check that the compiled step of a batch fits the memory.

        Raises:
            UserError: It does not fit; the message has a batch size that does, if there is one.
        """
        partitioning, microbatches = self.partitioning, self.config.microbatches

        def compile_with(batch_size: int) -> jax.stages.Compiled:
            smaller = {
                name: jax.ShapeDtypeStruct(
                    (batch_size, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding
                )
                for name, leaf in batch.items()
            }
            return compile_step(step, partitioning, state, sums, smaller)

        unit = microbatches * math.lcm(partitioning.num_devices, partitioning.batch_norm_groups)
        check_memory(compiled, self.config.data.batch_size, unit, compile_with, microbatches)

    def abstract_state(self) -> TrainState:
        """Shapes and dtypes of the state before the first step; nothing is computed."""
        step = self.step_for(self.phase_at(0))
        state: TrainState = jax.eval_shape(
            partial(step.init, sample=self.sample), jax.random.key(self.config.seed)
        )
        return state

    @property
    def sample(self) -> jax.ShapeDtypeStruct:
        """The shape ``[1, H, W, C]`` and dtype of an image as batches hold it."""
        return jax.ShapeDtypeStruct((1, *self.dataset.image_shape), jnp.uint8)


def plan_steps(
    config: Config, images: int, stages: Sequence[str]
) -> tuple[int, optax.Schedule, tuple[Phase, ...]]:
    """The number of steps of a run, their learning rates, and their phases."""
    steps = math.ceil(config.epochs * images / config.data.batch_size)
    rates = dataclasses.replace(config.optimizer, learning_rate=scaled_learning_rate(config))
    schedule = create_schedule(rates, steps, config.epochs)
    return steps, schedule, plan_phases(config.transfer, stages, steps, config.epochs)
