"""Resolves settings, once, into the objects of a run, and checks that they suit the data."""

import dataclasses

import jax
import numpy as np
import optax

from ..config import Config, DataConfig, ModelConfig
from ..data import FOLDER, Dataset, Preprocessing, open_dataset, shards_of
from ..data.images import first_few
from ..errors import UserError
from ..metrics import balanced_class_weights
from ..models.lowerings import onednn
from ..weights import LoadedWeights, build_model
from .build import build_augmentation, build_transform, model_channels
from .distributed import all_agree, wait_for_processes
from .dtype import resolve_dtype
from .mesh import data_mesh
from .partitioning import choose_partitioning
from .run import Run, plan_steps
from .segments import plan_phases
from .step import TrainStep
from .transfer.start import check_unseen_options, choose_solver, choose_views, find_start
from .whitening import check_whitened_stem


def resolve(config: Config) -> Run:
    """Load the data and build the objects that the settings describe.

    Raises:
        UserError: Data or weights are missing or damaged, or settings are unknown or contradict
            each other.
    """
    config = resolve_dtype(config)
    wait_for_processes()
    # They must run the same program.
    uses_native = all_agree(_uses_native(config.model))
    partitioning = choose_partitioning(
        config.parallel, config.data.batch_size, config.microbatches, data_mesh(), uses_native
    )
    # Wrong names of models and stages are reported before any data are read.
    stages = build_model(config.model, num_classes=10).stages
    plan_phases(config.transfer, stages, 1, 1)
    start = find_start(config.transfer.weights, config.model.name)
    if start is not None:
        check_unseen_options(start, config.model)
    dataset = open_dataset(_with_expected_images(config.data, start), config.augment)
    _check_labels(dataset, config)
    _check_order(dataset, config)
    channels = _choose_channels(config, dataset, start)
    model = build_model(config.model, num_classes=len(dataset.classes), in_channels=channels)
    if partitioning.batch_norm_groups > 1:
        model = model.clone(batch_norm_groups=partitioning.batch_norm_groups)
    if partitioning.splits_no_custom_calls and config.model.conv_impl == "auto":
        model = model.clone(conv_impl="jax")
    if config.whitened_stem:
        check_whitened_stem(
            model,
            model.in_channels or dataset.image_shape[-1],
            starts_from_weights=start is not None,
            streams=dataset.train.streams,
        )
    total_steps, schedule, phases = plan_steps(config, len(dataset.train), stages)
    transform = build_transform(
        dataset, config.data.image_size, None if start is None else start.info.transform, channels
    )
    augment, mix = build_augmentation(config.augment, config.data.image_size, dataset)
    views = choose_views(config, mixes=mix is not None)
    return Run(
        config=config,
        dataset=dataset,
        step=TrainStep(
            model,
            optax.identity(),  # each phase has an optimiser of its own, see step_for
            loss=config.loss,
            augment=augment,
            preprocess=Preprocessing.from_transform(transform),
            mix=mix,
            class_weights=_class_weights(config, dataset),
            label_smoothing=config.label_smoothing,
            target_threshold=config.target_threshold,
            ema_decay=config.ema_decay,
            microbatches=config.microbatches,
            evaluate_flipped=config.evaluate_flipped,
            measures_gradient=True,
            skips_nonfinite=config.on_nan == "skip",
            compute_sharding=partitioning.replicated_sharding
            if partitioning.shard_params
            else None,
        ),
        transform=transform,
        schedule=schedule,
        phases=phases,
        total_steps=total_steps,
        partitioning=partitioning,
        start=start,
        views=views,
        solver=choose_solver(config, views),
    )


def _uses_native(config: ModelConfig) -> bool:
    """Whether the model computes by ``flax-resnet-onednn`` on the devices of this process."""
    on_cpu = jax.local_devices()[0].platform == "cpu"
    return on_cpu and config.conv_impl in ("auto", "onednn") and onednn.is_available()


def _class_weights(config: Config, dataset: Dataset) -> tuple[float, ...] | None:
    """Weights that are proportional to the inverse of the number of images of each class."""
    if config.class_weights is None:
        return None
    weights = balanced_class_weights(dataset.train.labels, len(dataset.classes))
    return tuple(weights.tolist())


def _choose_channels(config: Config, dataset: Dataset, start: LoadedWeights | None) -> int | None:
    """The option ``in_channels`` of the model; None where the images decide.

    Raises:
        UserError: The images have other channels than the settings, or a random first convolution
            would not train.
    """
    stored = dataset.image_shape[2]
    if start is None:
        wanted = config.model.in_channels
        return wanted and model_channels(wanted, stored, None)
    channels = model_channels(config.model.in_channels, stored, start.channels)
    if channels == start.channels:
        return config.model.in_channels
    if config.transfer.in_channels_init == "fresh" and config.transfer.mode != "full":
        raise UserError(
            f"--transfer.in-channels-init fresh: the first convolution is random and --mode "
            f"{config.transfer.mode} does not train it at first; use adapt, or --mode full.",
            exit_code=2,
        )
    return channels


def _with_expected_images(data: DataConfig, start: LoadedWeights | None) -> DataConfig:
    """The data section, completed with the image size that the starting weights expect."""
    if start is None:
        return data
    expected = start.info.transform
    # Stored pixels of another size are resized to model_size before the model sees them.
    size = data.image_size or expected.model_size or expected.height
    resize = expected.scaled(size).resize or size
    return dataclasses.replace(
        data,
        image_size=size,
        # A plain file of weights does not say how its images were resized.
        resize=data.resize or (None if start.info.kind == "file" else resize),
        interpolation=data.interpolation or expected.interpolation,
    )


def _check_order(dataset: Dataset, config: Config) -> None:
    """Raise a UserError where the data have no shards, or two orders are asked for."""
    if config.data.shuffle != "shards":
        return
    if config.data.sampling == "balanced":
        raise UserError(
            "--data.shuffle shards reads each image once in an epoch, and --data.sampling balanced "
            "some of them several times: leave out one of them.",
            exit_code=2,
        )
    shards_of(dataset.train)


def _check_labels(dataset: Dataset, config: Config) -> None:
    """Raise a UserError where labels do not suit the loss or are balanced twice, or a class has no
    training image."""
    if dataset.multi_label:
        if config.loss != "sigmoid":
            raise UserError(
                f"The images of {dataset.name} can have several classes each: use --loss sigmoid.",
                exit_code=2,
            )
        balances = {
            "--class-weights balanced": config.class_weights == "balanced",
            "--data.sampling balanced": config.data.sampling == "balanced",
        }
        for option, is_set in balances.items():
            if is_set:
                raise UserError(
                    f"{option} is for images with one class each; the images of {dataset.name} can "
                    "have any number of classes: leave it out.",
                    exit_code=2,
                )
        return
    if config.loss == "sigmoid":
        raise UserError(
            f"--loss sigmoid is for images with any number of classes; those of {dataset.name} "
            "have one each: use --loss one_vs_all for binary cross-entropy, or softmax.",
            exit_code=2,
        )
    if config.class_weights is not None and config.loss != "softmax":
        raise UserError(
            f"--class-weights {config.class_weights} weighs the softmax loss: use --loss softmax, "
            "or --data.sampling balanced in its place.",
            exit_code=2,
        )
    if config.class_weights is not None and config.data.sampling is not None:
        raise UserError(
            f"--class-weights {config.class_weights} and --data.sampling {config.data.sampling} "
            "would correct for the sizes of the classes twice: leave out one of them.",
            exit_code=2,
        )
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    lacking = [name for name, count in zip(dataset.classes, counts, strict=True) if not count]
    if lacking and config.data.name == FOLDER:
        raise UserError(
            f"{config.data.dir}: no training image of {first_few(lacking)}; add images there, ten "
            "or more for each class, or remove these classes."
        )
