"""The command finetune, which trains a classifier from a folder of photos."""

from collections.abc import Sequence
from typing import Literal

from ..config import Config
from .grammar import parse_config, parse_known


def finetune_command(words: Sequence[str]) -> None:
    """Train a classifier of photos; words that are no options of its own set fields of a config."""
    chosen, rest = parse_known("finetune", _finetune, words, others=(Config,))
    parse_config("finetune", Config(), rest, others=(_finetune,))  # refuses wrong usage at once
    from ..training import train

    train(parse_config("finetune", chosen(), rest, others=(_finetune,)))


def _finetune(
    images: str,
    /,
    *,
    model: str | None = None,
    weights: str = "DEFAULT",
    mode: Literal["head", "partial", "full", "gradual"] | None = None,
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
    workdir: str | None = None,
) -> Config:
    """Train a classifier of your photos from pretrained weights.

    The run's folder is all that `flax-resnet predict` needs. Any field of a config can be set too,
    as in --optimizer.weight-decay 0.1 (`flax-resnet train --help` lists them).

    Args:
        images: A folder with a folder of images for each class (with or without train, val and
            test above them), a .csv, .jsonl or .npz.
        model: A name from `flax-resnet list`; by default resnet50, or the model of the weights.
        weights: DEFAULT, IMAGENET1K_V1 or _V2, timm/NAME, a weights file, a run's folder, or none.
        mode: Train the head only (seconds, the default), the last stages, the whole model, or one
            more stage after each epoch.
        freeze_before: The first stage that is trained, such as layer3; for partial and gradual.
        head: linear, or hidden:512 for one more layer.
        dropout: The dropout rate before the classifier.
        layer_decay: The learning rate of a stage divided by that of the stage above it; gradual
            uses 1/2.6.
        epochs: Passes over the training images; by default 10, without weights 60.
        batch_size: Images in a step.
        learning_rate: The learning rate of the head; the default depends on the mode.
        image_size: The height and width of images; by default that of the weights.
        views: Compute the frozen stages once for this many views of each image; 1 is without
            augmentation, 0 computes them at each step.
        solver: The solver for a head on stored features.
        seed: The seed of the head, the order of images and the augmentation.
        workdir: The run's folder; by default runs/NAME, named after the images.
    """
    options = dict(locals())
    from ..training import finetune_config  # after parsing: --help does not wait for JAX

    return finetune_config(**options)
