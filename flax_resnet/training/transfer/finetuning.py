"""The fine-tuning recipe behind ``flax-resnet finetune``: settings from a few choices."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from ...config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TransferConfig,
)
from ...errors import UserError
from ...models import default_image_shape
from ...paths import expand
from ...weights import build_model, is_published_set
from ..loop import train
from ..recording import TrainResult
from .start import find_start

Mode = Literal["head", "partial", "full", "gradual"]

# Flower tutorials train all parameters with Adam at 1e-4; a random head tolerates a higher rate.
RATES = {"head": 1e-3, "partial": 3e-4, "full": 3e-4, "gradual": 1e-3}
RATE_FROM_RANDOM = 1e-3
EPOCHS = {"head": 10, "partial": 10, "full": 10, "gradual": 12}
EPOCHS_FROM_RANDOM = 60

# Model settings that the starting weights decide; all others are those of the new run.
ARCHITECTURE = (
    *("name", "stage_sizes", "block", "widths", "groups", "width_per_group"),
    *("stem", "stem_width", "stem_pool", "attention", "se_reduction", "anti_alias"),
    *("standardized_kernels", "shortcut", "version", "norm", "avg_pool_shortcut"),
)


def finetune_config(
    images: str | Path,
    *,
    model: str | None = None,
    weights: str | Path = "DEFAULT",
    mode: Mode | None = None,
    freeze_before: str | None = None,
    head: str = "linear",
    dropout: float | None = None,
    layer_decay: float | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    learning_rate: float | None = None,
    image_size: int | None = None,
    views: int | None = None,
    solver: Literal["lbfgs", "sgd"] | None = None,
    seed: int = 0,
    workdir: str | Path | None = None,
) -> Config:
    """The settings of a fine-tuning run, for ``train``.

    Args:
        images: A folder that holds a folder of images for each class, optionally below train, val
            and test; or a .csv, .jsonl or .npz file.
        model: Name of the model; by default that of the weights, or resnet50.
        weights: See ``config.TransferConfig``.
        mode: See ``config.TransferConfig``; by default head, without weights full.
        freeze_before: See ``config.TransferConfig``.
        head: ``"linear"``, or ``"hidden:512"`` for a hidden layer of 512 before the classifier;
            ``"hidden:512,256"`` for two.
        dropout: Dropout rate before the classifier.
        layer_decay: See ``config.TransferConfig``.
        epochs: Number of epochs; the default depends on the mode.
        batch_size: Images of a batch.
        learning_rate: The default depends on the mode.
        image_size: Height and width in pixels; by default those that the weights expect.
        views: See ``config.TransferConfig``.
        solver: See ``config.TransferConfig``.
        seed: Seed of the head's initial values, the order of the images and the augmentation.
        workdir: The run's folder; by default runs/NAME, named after ``images``.

    Raises:
        UserError: The images do not exist, the weights cannot be loaded or belong to another model,
            or options contradict each other.
    """
    if not expand(images).exists():  # checked before weights are downloaded
        raise UserError(
            f"{images} does not exist: name a folder with a folder of images for each class, or a "
            ".csv, .jsonl or .npz."
        )
    from_random = weights == "none"
    mode = mode or ("full" if from_random else "head")
    if from_random and mode != "full":
        raise UserError(
            f"--mode {mode} trains on top of weights, and there are none: give --weights, or use "
            "--mode full.",
            exit_code=2,
        )
    chosen = ModelConfig(name=model or "resnet50")
    weights = _as_word(weights)
    start = find_start(weights, model or (chosen.name if is_published_set(weights) else None))
    if start is not None:
        held = start.info.config
        chosen = ModelConfig(**{name: getattr(held, name) for name in ARCHITECTURE})
    chosen = dataclasses.replace(chosen, hidden=_hidden(head), dropout=dropout)
    if start is None and image_size is None:
        image_size = default_image_shape(build_model(chosen, 2))[0]
    rate = RATE_FROM_RANDOM if from_random else RATES[mode]
    usual = EPOCHS_FROM_RANDOM if from_random else EPOCHS[mode]
    return Config(
        model=chosen,
        data=DataConfig(
            name="folder", dir=str(images), batch_size=batch_size, image_size=image_size
        ),
        # Pretrained features describe whole objects; a crop of a twelfth of a photo can lose them.
        augment=AugmentConfig(
            random_resized_crop=True,
            crop_padding=0,
            crop_scale=(0.08, 1.0) if from_random else (0.35, 1.0),
        ),
        optimizer=OptimizerConfig(
            name="adamw",
            learning_rate=learning_rate or rate,
            weight_decay=0.05 if from_random else 0.01,
            schedule="cosine",
            warmup_epochs=min(1.0, 0.1 * (epochs or usual)),
        ),
        transfer=TransferConfig(
            weights=weights,
            mode=mode,
            freeze_before=freeze_before,
            layer_decay=layer_decay,
            views=views,
            solver=solver,
        ),
        epochs=epochs or usual,
        label_smoothing=0.1 if mode != "head" else 0.0,
        seed=seed,
        workdir=str(workdir or Path("runs") / expand(images).resolve().stem),
    )


def finetune(images: str | Path, *, console: Console | None = None, **options: Any) -> TrainResult:
    """Train a classifier for a folder of photos from pretrained weights.

    Args:
        images: The folder.
        console: Where progress is printed; by default the terminal.
        **options: Those of ``finetune_config``, such as ``mode="full"`` or ``epochs=5``.

    Returns:
        The run's folder and its accuracy; ``fr.load(result.workdir)`` is the classifier.

    Raises:
        UserError: See ``finetune_config`` and ``train``.
    """
    return train(finetune_config(images, **options), console)


def _as_word(weights: str | Path) -> str:
    """Return a source as the config holds it: a ``Path`` is marked as a path."""
    if isinstance(weights, str) or weights.is_absolute():
        return str(weights)
    return os.path.join(os.curdir, weights)


def _hidden(head: str) -> tuple[int, ...] | None:
    if head == "linear":
        return None
    kind, _, widths = head.partition(":")
    numbers = [int(width) for width in widths.split(",") if width.isdecimal()]
    if kind != "hidden" or len(numbers) != widths.count(",") + 1 or not all(numbers):
        raise UserError(
            f"--head {head} is not a head: use linear, or hidden:512 for a layer of 512 below the "
            "classifier.",
            exit_code=2,
        )
    return tuple(numbers)
