"""The command finetune, which trains a classifier from a folder of photos."""

from collections.abc import Sequence

from ..config import Config
from .grammar import parse_config, parse_known


def finetune_command(words: Sequence[str]) -> None:
    """Train a classifier of photos; words that are no options of its own set fields of a config."""
    from ..training import finetune_config

    chosen, rest = parse_known("finetune", finetune_config, words, others=(Config,))
    # Wrong usage is refused at once; all that follows waits for JAX.
    parse_config("finetune", Config(), rest, others=(finetune_config,))
    from ..training import train

    train(parse_config("finetune", chosen(), rest, others=(finetune_config,)))
