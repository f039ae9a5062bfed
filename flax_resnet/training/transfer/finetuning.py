"""Transfer learning from few choices: the recipe behind ``flax-resnet finetune``."""

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
from ...weights import build_model, is_published_set
from ..loop import train
from ..recording import TrainResult
from .start import find_start

Mode = Literal["head", "partial", "full", "gradual"]

# Adam's rate of the flower tutorials is 1e-4 for all parameters; a fresh head stands more.
RATES = {"head": 1e-3, "partial": 3e-4, "full": 3e-4, "gradual": 1e-3}
RATE_FROM_RANDOM = 1e-3
EPOCHS = {"head": 10, "partial": 10, "full": 10, "gradual": 12}
EPOCHS_FROM_RANDOM = 60

# Fields of a config that the starting weights decide; all others are the new run's.
ARCHITECTURE = ("name", "stem", "shortcut", "version", "norm", "avg_pool_shortcut")


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
    """The settings of a fine-tuning run, as :func:`train` takes them.

    Args:
        images: a folder with a folder of images for each class, with or without train, val and test
            above them; or a .csv, .jsonl or .npz.
        model: by default the model that the weights are of, or resnet50.
        weights, mode, freeze_before, layer_decay, views, solver: see config.TransferConfig. The
            mode is head by default; without weights it is full, the only one that makes sense.
        head: ``"linear"`` or ``"hidden:512"``, one more layer of 512 below the classifier;
            ``"hidden:512,256"`` two.
        dropout: rate before the classifier.
        epochs, batch_size, learning_rate: by default as the mode needs them.
        image_size: by default as the weights expect it.
        seed: of the head's first values, the order of the images and the augmentation.
        workdir: the run's folder; default runs/NAME, named after ``images``.

    Raises:
        UserError: no images there, weights that cannot be had or are of another model, or options
            that do not go together.
    """
    if not Path(images).expanduser().exists():  # said before weights are downloaded
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
        # Pretrained features are of whole objects: crops of a twelfth of a photo lose its class.
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
        workdir=str(workdir or Path("runs") / Path(images).resolve().stem),
    )


def finetune(images: str | Path, *, console: Console | None = None, **options: Any) -> TrainResult:
    """Train a classifier of a folder of photos from pretrained weights.

    Args:
        images: the folder.
        console: where to tell what happens; by default the terminal.
        **options: of :func:`finetune_config`, such as ``mode="full"`` or ``epochs=5``.

    Returns:
        The run's folder and its accuracy; ``fr.load(result.workdir)`` is the classifier.

    Raises:
        UserError: as :func:`finetune_config` and :func:`train`.
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
