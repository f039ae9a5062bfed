"""Commands that take a config: train, augment-preview."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config import Config, list_configs, load_config


def train_command(arguments: Sequence[str]) -> None:
    """Train a model from a config; any field can be overridden."""
    from ..training import train  # after parsing, so that --help does not wait for JAX

    train(_parse_config(arguments, "train", "Train a model."))


def preview_command(arguments: Sequence[str]) -> None:
    """Write a picture of what a config's augmentation does."""
    from ..training import augment_preview

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", default="augment.png")
    chosen, rest = parser.parse_known_args(list(arguments))
    text = "Write a picture of augmented training images to --output (augment.png)."
    augment_preview(_parse_config(rest, "augment-preview", text), Path(chosen.output))
    print(f"Look at {chosen.output}: each row is an image, as stored and then as steps see it.")


def _parse_config(arguments: Sequence[str], command: str, text: str) -> Config:
    """The config that ``--config`` names, with the fields that the rest of the line sets."""
    import tyro  # here, as every command imports this file: 0.1 s

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", required="-h" not in arguments and "--help" not in arguments)
    parsed, overrides = parser.parse_known_args(list(arguments))
    overrides = ["--model.conv-impl" if word == "--conv-impl" else word for word in overrides]
    default = load_config(parsed.config) if parsed.config else Config()
    return tyro.cli(
        Config,
        prog=f"flax-resnet {command} --config NAME",
        description=f"{text} Configs: {', '.join(list_configs())}; or the path of one. "
        "Each field below can be set, as in --optimizer.learning-rate 0.1.",
        default=default,
        args=overrides,
    )
