"""A check of settings: impossible ones raise an error, unusual ones give warnings."""

import dataclasses
import math
import re
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import UserError, wrong_choice
from ..storage import locate
from .fields import Config, DataConfig
from .intervals import parse_interval
from .recipes import flatten, scaled_learning_rate


def check_config(config: Config) -> list[str]:
    """Check that all settings are possible.

    Args:
        config: The settings.

    Returns:
        A warning for each setting that is possible but far from what usually trains.

    Raises:
        UserError: A setting is impossible.
    """
    for name, value in flatten(config).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {value}; it must be finite.", exit_code=2)
    for name, value, choices in _choices(config):
        if value not in choices:
            raise wrong_choice(f"--{name}", repr(value), sorted(map(str, choices)))
    positive = {
        "epochs": config.epochs,
        "data.batch-size": config.data.batch_size,
        "evaluate-every": config.evaluate_every,
        "optimizer.learning-rate": config.optimizer.learning_rate,
        "optimizer.sgd-learning-rate": config.optimizer.sgd_learning_rate,
        "optimizer.bias-rate": config.optimizer.bias_rate,
        "augment.repeats": config.augment.repeats,
        **{f"data.train-sizes of epoch {epoch}": size for epoch, size in config.data.train_sizes},
        "microbatches": config.microbatches,
        "parallel.timeout": config.parallel.timeout,
        "checkpoint.timeout": config.checkpoint.timeout,
        "parallel.flop-rate": config.parallel.flop_rate,
        "parallel.bandwidth": config.parallel.bandwidth,
    }
    positive_if_set = {
        "optimizer.base-batch-size": config.optimizer.base_batch_size,
        "optimizer.clip-norm": config.optimizer.clip_norm,
        "max-steps": config.max_steps,
        "profile": config.profile,
        "calibrate": config.calibrate,
        "data.image-size": config.data.image_size,
    }
    for name, value in (positive | positive_if_set).items():
        if value is not None and not value > 0:
            raise UserError(f"--{name} is {value}; it must be above 0.", exit_code=2)
    not_negative = {
        "transfer.views": config.transfer.views or 0,
        "transfer.unfreeze-epochs": config.transfer.unfreeze_epochs,
        "optimizer.warmup-epochs": config.optimizer.warmup_epochs,
        "optimizer.milestones": min(config.optimizer.milestones, default=0),
        "optimizer.weight-decay": config.optimizer.weight_decay,
    }
    for name, value in not_negative.items():
        if value < 0:
            raise UserError(f"--{name} is {value}; it must not be negative.", exit_code=2)
    if config.calibrate and not config.dry_run:
        raise UserError(
            "--calibrate times steps for the table of --dry-run: add that, or leave it out.",
            exit_code=2,
        )
    parse_interval("save-every", config.save_every)
    if config.target_threshold is not None:
        if config.loss == "softmax":
            raise UserError(
                "--target-threshold is for binary cross-entropy: add --loss one_vs_all, or sigmoid "
                "for images with any number of classes.",
                exit_code=2,
            )
        if config.label_smoothing:
            raise UserError(
                "--target-threshold makes every target 0 or 1, so --label-smoothing has no effect: "
                "leave out one of them.",
                exit_code=2,
            )
    fractions = {
        "target-threshold": config.target_threshold or 0.0,
        "data.validation": config.data.validation,
        "label-smoothing": config.label_smoothing,
        "ema-decay": config.ema_decay or 0.0,
        "model.stochastic-depth": config.model.stochastic_depth or 0.0,
        "model.dropout": config.model.dropout or 0.0,
        "model.momentum": config.model.momentum or 0.0,
        "model.block-dropout": config.model.block_dropout or 0.0,
        "optimizer.momentum": config.optimizer.momentum,
    }
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise UserError(f"--{name} is {value}; it must be at least 0 and below 1.", exit_code=2)
    factors = {
        "optimizer.decay-factor": config.optimizer.decay_factor,
        "transfer.layer-decay": config.transfer.layer_decay or 0.0,
    }
    for name, value in factors.items():
        if not 0 <= value <= 1:
            raise UserError(
                f"--{name} is {value}; learning rates are multiplied by it, so it must be from 0 "
                "to 1.",
                exit_code=2,
            )
    epochs = [epoch for epoch, _ in config.data.train_sizes]
    if epochs != sorted(set(epochs)) or min(epochs, default=0) < 0:
        raise UserError(
            f"--data.train-sizes begin at epochs {', '.join(map(str, epochs))}; they must rise.",
            exit_code=2,
        )
    if config.data.batch_size % config.augment.repeats:
        raise UserError(
            f"--augment.repeats is {config.augment.repeats}; --data.batch-size "
            f"{config.data.batch_size} must be a multiple of it.",
            exit_code=2,
        )
    if config.augment.alternating_flip and not config.augment.flip:
        raise UserError(
            "--augment.alternating-flip is how --augment.flip mirrors images, and that is off: "
            "leave out one of them.",
            exit_code=2,
        )
    if config.augment.alternating_flip and (config.transfer.views or 0) > 1:
        raise UserError(
            f"--augment.alternating-flip mirrors images by epochs, and --views "
            f"{config.transfer.views} computes their features once: leave out one of them.",
            exit_code=2,
        )
    for name, folder in {"workdir": config.workdir, "data.dir": config.data.dir}.items():
        try:
            locate(folder or ".")
        except UserError as error:
            raise UserError(f"--{name}: {error}", exit_code=2) from error
    if not re.fullmatch(r"global|per_device|groups:[1-9]\d*", config.parallel.batch_norm):
        raise UserError(
            f"--parallel.batch-norm is {config.parallel.batch_norm!r}; it must be global, "
            "per_device or groups:N.",
            exit_code=2,
        )
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed is {config.seed}; it must be from 0 to 2**32 - 1.", exit_code=2)
    rate = scaled_learning_rate(config)
    usual_rate = 0.02 if config.optimizer.name in ("adam", "adamw", "lamb") else 2.0
    warnings = []
    if not usual_rate * 1e-5 <= rate <= usual_rate:
        warnings.append(
            f"learning rate {rate:g} is far from what usually trains with "
            f"{config.optimizer.name} ({usual_rate * 1e-5:g} to {usual_rate:g})"
        )
    if config.optimizer.weight_decay > 0.01 and config.optimizer.name in ("sgd", "adam"):
        warnings.append(
            f"weight decay {config.optimizer.weight_decay:g} is far above the usual 1e-5 to 1e-3"
        )
    divided = ("folder", "webdataset", "parquet")
    if config.data.name in divided and config.data.validation != DataConfig.validation:
        warnings.append(
            f"--data.validation {config.data.validation:g} has no effect on --data.name "
            f"{config.data.name}: --data.splits says how its images are divided"
        )
    warmup, milestones = config.optimizer.warmup_epochs, config.optimizer.milestones
    if warmup >= config.epochs:
        warnings.append(
            f"the learning rate rises over {warmup:g} epochs and the run has {config.epochs}: it "
            "does not get beyond warm-up (--optimizer.warmup-epochs)"
        )
    if config.optimizer.schedule == "step" and min(milestones, default=math.inf) >= config.epochs:
        warnings.append(
            f"no milestone of schedule step is before epoch {config.epochs}, so the learning rate "
            "does not fall (--optimizer.milestones)"
        )
    if not 8 <= config.data.batch_size <= 8192:
        warnings.append(
            f"batch size {config.data.batch_size} is far from the usual 8 to 8192; "
            "batch norm and the learning rate depend on it"
        )
    return warnings


def _choices(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield the option, the value and the choices of each field that has choices.

    The command line checks them too; a recipe and Python do not.
    """
    for name, kind in get_type_hints(type(section)).items():
        value, option = getattr(section, name), f"{prefix}{name.replace('_', '-')}"
        if dataclasses.is_dataclass(kind):
            yield from _choices(value, f"{option}.")
            continue
        kinds = (kind, *get_args(kind))
        choices = [word for one in kinds if get_origin(one) is Literal for word in get_args(one)]
        if choices:
            choices += [None] if NoneType in kinds else []
            for one in value if get_origin(kind) is tuple else [value]:
                yield option, one, tuple(choices)
