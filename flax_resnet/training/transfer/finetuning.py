"""The fine-tuning recipe behind ``flax-resnet finetune``: settings from a few choices."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TransferConfig,
)
from ...errors import UserError, wrong_choice
from ...storage import locate

if TYPE_CHECKING:
    from rich.console import Console

    from ..recording import TrainResult

Mode = Literal["head", "partial", "full", "gradual"]

# Flower tutorials train all parameters with Adam at 1e-4; a random head tolerates a higher rate.
RATES = {"head": 1e-3, "partial": 3e-4, "full": 3e-4, "gradual": 1e-3}
RATE_FROM_RANDOM = 1e-3
# He's nets for CIFAR, with 16 channels in the first stage and not 64, must change more than nets
# for ImageNet: at the rates above they end below a net from scratch (docs/results.md).
RATES_OF_NARROW = RATES | {"full": 1e-3, "gradual": 3e-3}
NARROW = 64  # channels; a net whose first stage has fewer is narrow
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
    /,
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
    overwrite: bool = False,
) -> Config:
    """Train a classifier of your photos from pretrained weights.

    The run's folder is all that `flax-resnet predict` needs. Any field of a config can be set too,
    as in --optimizer.weight-decay 0.1 (`flax-resnet train --help` lists them).

    Args:
        images: A folder with a folder of images for each class (with or without train, val and
            test above them), a .csv, .tsv, .jsonl or .npz.
        model: A name from `flax-resnet list`; by default resnet50, or the model of the weights.
        weights: DEFAULT, IMAGENET1K_V1 or _V2, timm/NAME, a weights file, a run's folder, or none.
        mode: Train the head only (seconds, the default), the last stages, the whole model, or one
            more stage after each epoch.
        freeze_before: The first stage that is trained, such as layer3; for partial and gradual.
        head: linear, or hidden:512 for one more layer.
        dropout: The dropout rate before the classifier.
        layer_decay: The learning rate of a stage divided by that of the stage above it; gradual
            uses 1/2.6.
        epochs: Passes over the training images, not for lbfgs; by default 10, for gradual 12,
            without weights 60.
        batch_size: Images in a step.
        learning_rate: The learning rate of the head, not for lbfgs; the default depends on the mode
            and the net.
        image_size: The height and width of images; by default that of the weights.
        views: Compute the frozen stages once for this many views of each image; 1 is without
            augmentation, 0 computes them at each step.
        solver: The solver for a head on stored features; by default lbfgs for a linear one without
            dropout, else sgd.
        seed: The seed of the head, the order of images and the augmentation.
        workdir: The run's folder; by default runs/NAME, named after the images.
        overwrite: Delete a run there that has other settings or photos, and train in its place.

    Raises:
        UserError: The images do not exist, the weights cannot be loaded or belong to another model,
            or options contradict each other.
    """
    # Here, because the command line parses its words by this function before it waits for JAX.
    from ...models import default_image_shape
    from ...weights import build_model, is_published_set
    from .start import find_start

    if not locate(images).exists():  # checked before weights are downloaded
        raise UserError(
            f"{images} does not exist: name a folder with a folder of images for each class, or a "
            ".csv, .tsv, .jsonl or .npz."
        )
    from_random = weights == "none"
    mode = mode or ("full" if from_random else "head")
    if mode not in RATES:
        raise wrong_choice("--mode", repr(mode), RATES)
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
    net = build_model(chosen, 2)
    if start is None and image_size is None:
        image_size = default_image_shape(net)[0]
    elif start is not None and image_size is None and str(images).lower().endswith(".npz"):
        # ``resolve`` gives image files the size of the weights, and leaves arrays as they are.
        image_size = start.info.transform.model_size or start.info.transform.height
    rates = RATES_OF_NARROW if net.widths[0] < NARROW else RATES
    rate = RATE_FROM_RANDOM if from_random else rates[mode]
    if epochs is None:
        epochs = EPOCHS_FROM_RANDOM if from_random else EPOCHS[mode]
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
            learning_rate=rate if learning_rate is None else learning_rate,
            weight_decay=0.05 if from_random else 0.01,
            schedule="cosine",
            warmup_epochs=min(1.0, 0.1 * epochs),
        ),
        transfer=TransferConfig(
            weights=weights,
            mode=mode,
            freeze_before=freeze_before,
            # Features that the upper stages were trained on would otherwise change when a stage
            # that joins them leaves its old statistics; fastai's frozen batch norms move too.
            statistics="updated" if mode == "gradual" else "frozen",
            layer_decay=layer_decay,
            views=views,
            solver=solver,
        ),
        epochs=epochs,
        label_smoothing=0.1 if mode != "head" else 0.0,
        seed=seed,
        workdir=str(workdir or Path("runs") / locate(images).resolve().stem),
        overwrite=overwrite,
    )


def finetune(
    images: str | Path, *, console: "Console | None" = None, **options: Any
) -> "TrainResult":
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
    from ..distributed import connect
    from ..loop import train

    connect(ParallelConfig())  # before the weights are loaded, which are arrays of JAX
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
