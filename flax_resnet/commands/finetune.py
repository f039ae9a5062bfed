"""Command finetune: a folder of photos to a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..config import Config


@dataclass(frozen=True)
class Finetune:
    """The choices of the command; all others are fields of a config."""

    images: str
    """A folder with a folder of images for each class (with or without train, val and test above
    them), a .csv, .jsonl or .npz."""
    model: str | None = None
    """One of `flax-resnet list`; default resnet50, or what the file of weights is of."""
    weights: str = "DEFAULT"
    """DEFAULT, IMAGENET1K_V1 or _V2, timm/NAME, a file, a run's folder, or none."""
    mode: Literal["head", "partial", "full", "gradual"] | None = None
    """Train the head alone (seconds, the default), the last parts, everything, or one part more
    after each epoch."""
    freeze_before: str | None = None
    """The first part that trains, such as layer3; for partial and gradual."""
    head: str = "linear"
    """linear, or hidden:512 for one more layer."""
    dropout: float | None = None
    """Rate before the classifier."""
    layer_decay: float | None = None
    """Learning rate of each part over that of the part above it; gradual has 1/2.6."""
    epochs: int | None = None
    """Passes over the training images; default 10, from no weights 60."""
    batch_size: int = 32
    """Images in a step."""
    learning_rate: float | None = None
    """Of the head; default by mode."""
    image_size: int | None = None
    """Height and width; default as the weights expect."""
    views: int | None = None
    """Compute frozen parts once for so many views of each image; 1: no augmentation, 0: never."""
    solver: Literal["lbfgs", "sgd"] | None = None
    """How a head on kept features trains."""
    seed: int = 0
    """Of the head, the order and the augmentation."""
    workdir: str | None = None
    """The run's folder; default runs/NAME of the images."""


def finetune_command(arguments: Sequence[str]) -> None:
    """Train a classifier of your photos from pretrained weights."""
    text = (
        "Train a classifier of your photos from pretrained weights; the run's folder is all that "
        "flax-resnet predict needs. Any field of a config can be set too, as in "
        "--optimizer.weight-decay 0.1 (flax-resnet train --help lists them)."
    )
    import tyro  # here, as every command imports this file: 0.1 s

    chosen, rest = tyro.cli(
        Finetune,
        prog="flax-resnet finetune",
        description=text,
        args=arguments,
        return_unknown_args=True,
        config=(tyro.conf.PositionalRequiredArgs,),
    )
    from ..training import finetune_config, train  # after parsing: --help does not wait for JAX

    config = finetune_config(**vars(chosen))
    train(tyro.cli(Config, prog="flax-resnet finetune", default=config, args=rest))
