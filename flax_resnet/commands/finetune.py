"""The command finetune, which trains a classifier from a folder of photos."""

from collections.abc import Sequence

from ..config import Config
from ..errors import UserError
from .grammar import parse_config, parse_known


def finetune_command(words: Sequence[str]) -> None:
    """Train a classifier of photos; words that are no options of its own set fields of a config."""
    from ..training import finetune_config

    try:
        chosen, rest = parse_known("finetune", finetune_config, words, others=(Config,))
    except UserError as error:
        if str(error) != "images needs a value.":
            raise
        # tyro reads no argument after an option that it does not know, and here it knows none of a
        # config.
        raise UserError(
            "Name the photos first, before options of a config: flax-resnet finetune PHOTOS "
            "--optimizer.weight-decay 0.1.",
            exit_code=2,
        ) from error
    # Wrong usage is refused at once; all that follows waits for JAX.
    settings = parse_config("finetune", Config(), rest, others=(finetune_config,))
    from ..training import train
    from ..training.distributed import connect

    connect(settings.parallel)  # before the weights are loaded, which are arrays of JAX
    train(parse_config("finetune", chosen(), rest, others=(finetune_config,)))
