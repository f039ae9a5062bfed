"""From a config to the parts of a run: data, model, optimiser, first state."""

import dataclasses
import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, Config, ModelConfig
from ..data import Augmentation, Dataset, Mixing, Preprocessing, Split, open_dataset
from ..errors import UserError
from ..models import QUICK_COMPILATION, create_model
from .optim import create_optimizer, create_schedule
from .state import StepOptions, TrainState, create_train_state


@dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
      dataset: images and labels of the three splits.
      model: the Linen module.
      preprocessing: from stored pixels to the model's input.
      schedule: learning rate by step.
      state: the fresh state.
      total_steps: steps of all epochs.
    """

    config: Config
    dataset: Dataset
    model: nn.Module
    preprocessing: Preprocessing
    schedule: optax.Schedule
    state: TrainState
    total_steps: int

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

    def options_for(self, size: int | None) -> StepOptions:
        """What a step does to training images of that size, see ``train_size_at``."""
        options = self.state.options
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


def prepare(config: Config) -> Run:
    """Load the data and build the rest.

    Raises:
      UserError: missing or damaged data, an unknown model or option.
    """
    model = build_model(config.model, num_classes=10)  # fails on a wrong name before data is read
    dataset = open_dataset(config.data, config.augment)
    if dataset.multi_label and config.loss != "sigmoid":
        raise UserError(
            f"The images of {dataset.name} have any number of classes each: use --loss sigmoid.",
            exit_code=2,
        )
    model = build_model(config.model, num_classes=len(dataset.classes))
    total_steps = math.ceil(config.epochs * len(dataset.train) / config.data.batch_size)
    schedule = create_schedule(config.optimizer, total_steps, config.epochs)
    preprocessing = build_preprocessing(dataset, config.data.image_size)
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
    tx = create_optimizer(config.optimizer, schedule)
    # One compiled program instead of thousands of small operations.
    init = jax.jit(
        lambda key: create_train_state(model, tx, key, sample, options),
        compiler_options=QUICK_COMPILATION,
    )
    state = init(jax.random.key(config.seed))
    return Run(config, dataset, model, preprocessing, schedule, state, total_steps)


def build_augmentation(
    config: AugmentConfig, image_size: int | None, dataset: Dataset
) -> tuple[Augmentation, Mixing | None]:
    """What is done to a batch on the device: to each image, and to pairs of them."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    del fields["repeats"]  # of the order of images, not of what is done to one
    mix = Mixing(fields.pop("mixup_alpha"), fields.pop("cutmix_alpha"))
    crop = image_size or dataset.image_shape[0]
    # Images that stream are cropped where they are decoded.
    wanted = fields.pop("random_resized_crop") and not dataset.train.streams
    augment = Augmentation(random_resized_crop=crop if wanted else None, **fields)
    return augment, mix if mix != Mixing() else None


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """The Linen module a config describes.

    Raises:
      UserError: unknown name or option; the message holds the nearest ones.
    """
    switches = {
        name: value for name, value in dataclasses.asdict(config).items() if value is not None
    }
    name = switches.pop("name")
    dtype = jnp.dtype(switches.pop("dtype"))
    try:
        return create_model(name, num_classes=num_classes, dtype=dtype, **switches)
    except ValueError as error:
        raise UserError(f"--model: {error}", exit_code=2) from error


def build_preprocessing(dataset: Dataset, image_size: int | None) -> Preprocessing:
    """Normalisation by the training images' own statistics, or, where they stream, by ImageNet's;
    images in memory are resized too."""
    if isinstance(dataset.train, Split):
        return Preprocessing(*channel_statistics(dataset.train.images), image_size)
    return Preprocessing(IMAGENET_MEAN, IMAGENET_STD)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images ``[N, H, W, C]``, from 0 to 1."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., 0].size
        mean = float(share @ levels)
        means.append(round(mean, 6))
        stds.append(round(float(np.sqrt(share @ (levels - mean) ** 2)), 6))
    return tuple(means), tuple(stds)
