"""Commands that take a config: train, launch, lr-find, augment-preview."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..config import Config, list_configs, load_config
from ..errors import UserError
from ..storage import locate
from .grammar import parse_config, parse_known

_T = TypeVar("_T")


def train_command(words: Sequence[str]) -> None:
    """Train a model from a config."""
    config, _ = _parse("train", _train, words, "Train a model.")
    from ..training import train  # after parsing: --help does not wait for JAX

    train(config)


def _train(*, config: str | None = None) -> tuple[str | None, None]:
    return config, None


def launch_command(words: Sequence[str]) -> None:
    """Train in several processes of this machine."""
    at = next((i for i, word in enumerate(words) if word in _LAUNCHED), len(words))
    own = [word for word in words[:at] if word != "--debug"]  # which is for the processes
    start, rest = parse_known("launch", _launch, own)
    if rest or at == len(words):
        raise UserError(
            "After its options, launch takes the command to start, train or finetune: "
            "flax-resnet launch --processes 2 train --config digits.",
            exit_code=2,
        )
    sys.exit(start()(words[at:]))


_LAUNCHED = ("train", "finetune")


def _launch(*, processes: int) -> Callable[[Sequence[str]], int]:
    """Train in several processes of this machine, one for each GPU: launch --processes 8 train ...

    What follows is the command train or finetune with its options. Signals are passed on; if a
    process fails, all end.

    Args:
        processes: The number of processes.
    """
    if processes < 1:
        raise UserError(f"--processes is {processes}; it must be 1 or more.", exit_code=2)
    from ..training.launch import launch

    return lambda words: launch(words, processes)


def lr_find_command(words: Sequence[str]) -> None:
    """Suggest a learning rate for a config."""
    text = "Train --steps (100) steps while the learning rate rises; draw the loss to --output."
    config, (output, steps) = _parse("lr-find", _lr_find, words, text)
    from ..config import scaled_learning_rate
    from ..training import find_learning_rate

    found = find_learning_rate(config, steps=steps, plot=locate(output))
    print(f"Look at {output}: {len(found.rates)} steps.")
    if found.suggestion is None:
        raise UserError("The loss did not fall at any rate, so there is nothing to suggest.")
    # The option is for base_batch_size where that is set.
    rate = found.suggestion * config.optimizer.learning_rate / scaled_learning_rate(config)
    options = f"--optimizer.learning-rate {rate:.2g}"
    if config.optimizer.name == "muon":  # the search raised both rates in proportion
        ratio = config.optimizer.sgd_learning_rate / config.optimizer.learning_rate
        options += f" --optimizer.sgd-learning-rate {rate * ratio:.2g}"
    print(options)


def _lr_find(
    *, config: str | None = None, output: str = "lr.png", steps: int = 100
) -> tuple[str | None, tuple[str, int]]:
    return config, (output, steps)


def augment_preview_command(words: Sequence[str]) -> None:
    """Write a picture of a config's augmented images."""
    text = "Write a picture of augmented training images to --output (augment.png)."
    config, output = _parse("augment-preview", _augment_preview, words, text)
    from ..training import augment_preview

    augment_preview(config, locate(output))
    print(f"Look at {output}: each row is an image, as stored and then as steps see it.")


def _augment_preview(
    *, config: str | None = None, output: str = "augment.png"
) -> tuple[str | None, str]:
    return config, output


def _parse(
    name: str, options: Callable[..., tuple[str | None, _T]], words: Sequence[str], text: str
) -> tuple[Config, _T]:
    """Return the config that ``--config`` names, with its fields set, and the other option."""
    chosen, rest = parse_known(name, options, words, others=(Config,), add_help=False)
    recipe, other = chosen()
    if recipe is None and not {"-h", "--help"} & set(rest):
        raise UserError(
            f"--config NAME is missing; configs: {', '.join(list_configs())}.", exit_code=2
        )
    rest = ["--model.conv-impl" if word == "--conv-impl" else word for word in rest]
    description = (
        f"{text} Configs: {', '.join(list_configs())}; or the path of one, "
        "which is Python code that runs: name only files that you trust. "
        "Each field below can be set, as in --optimizer.learning-rate 0.1."
    )
    default = load_config(recipe) if recipe else Config()
    name = f"{name} --config NAME"
    return parse_config(name, default, rest, others=(options,), description=description), other
