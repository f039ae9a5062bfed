"""The command line ``flax-resnet``. Thin: it parses, calls a function and prints."""

import argparse
import logging
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro
from rich.console import Console

from .config import Config, list_configs, load_config
from .errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 (done), 1 (failed) or 2 (wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax's notes are not for users
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return 0 if arguments else 2
        if arguments[0] not in COMMANDS:
            raise UserError(f"There is no command {arguments[0]!r}.\n{_usage()}", exit_code=2)
        COMMANDS[arguments[0]](arguments[1:])
    except UserError as error:
        if debug:
            traceback.print_exc()
        console.print(f"error: {error}", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 1
    except Exception as error:
        if debug:
            raise
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        console.print(f"error: {reason} (run again with --debug for the traceback)", markup=False)
        return 1
    return 0


def train_command(arguments: Sequence[str]) -> None:
    """Train a model from a config; any field can be overridden."""
    from .training import train  # after parsing, so that --help does not wait for JAX

    train(_parse_config(arguments, "train", "Train a model."))


def preview_command(arguments: Sequence[str]) -> None:
    """Write a picture of what a config's augmentation does."""
    from .training import augment_preview

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", default="augment.png")
    chosen, rest = parser.parse_known_args(list(arguments))
    text = "Write a picture of augmented training images to --output (augment.png)."
    augment_preview(_parse_config(rest, "augment-preview", text), Path(chosen.output))
    print(f"Look at {chosen.output}: each row is an image, as stored and then as steps see it.")


def check_command(arguments: Sequence[str]) -> None:
    """Read every image of a folder, .csv or .jsonl, and tell what is wrong."""
    from .data.check import check_folder
    from .data.check_tables import render
    from .data.contact_sheet import contact_sheet
    from .data.folder import find_images

    parser = argparse.ArgumentParser(prog="flax-resnet check", description=check_command.__doc__)
    parser.add_argument("source", metavar="DIR")
    parser.add_argument("--sheet", help="also write a picture with examples of each class")
    parser.add_argument("--most", type=int, default=5, help="files to name for each finding")
    options = parser.parse_args(list(arguments))
    report = check_folder(options.source)
    Console(highlight=False).print(render(report, most=options.most))
    if options.sheet:
        contact_sheet(find_images(options.source), options.sheet)
        print(f"Look at {options.sheet}.")


def prepare_command(arguments: Sequence[str]) -> None:
    """Write a data set as the folder that TFDS reads, without TensorFlow."""
    from .data.prepare import preparable_names, prepare

    parser = argparse.ArgumentParser(
        prog="flax-resnet prepare", description=prepare_command.__doc__
    )
    parser.add_argument("name", help=", ".join(preparable_names()))
    parser.add_argument("--from", dest="source", help="the original archive or its folder")
    parser.add_argument("--data.dir", dest="data_dir", help="default ~/tensorflow_datasets")
    options = parser.parse_args(list(arguments))
    print(prepare(options.name, options.source, options.data_dir))


def _parse_config(arguments: Sequence[str], command: str, text: str) -> Config:
    """The config that ``--config`` names, with the fields that the rest of the line sets."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", required="-h" not in arguments and "--help" not in arguments)
    parsed, overrides = parser.parse_known_args(list(arguments))
    default = load_config(parsed.config) if parsed.config else Config()
    return tyro.cli(
        Config,
        prog=f"flax-resnet {command} --config NAME",
        description=f"{text} Configs: {', '.join(list_configs())}; or the path of one. "
        "Each field below can be set, as in --optimizer.learning-rate 0.1.",
        default=default,
        args=overrides,
    )


def list_command(arguments: Sequence[str]) -> None:
    """List the models whose name matches a pattern."""
    from .models import list_models

    parser = argparse.ArgumentParser(prog="flax-resnet list", description=list_command.__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'resnext*'")
    names = list_models(parser.parse_args(list(arguments)).pattern)
    if not names:
        raise UserError("No model matches; `flax-resnet list` shows all.")
    print("\n".join(names))


def summary_command(arguments: Sequence[str]) -> None:
    """Show a model's parameters, multiply-accumulates, output shapes and memory."""
    from .models import create_model, default_image_shape, summarize
    from .report import summary_table

    parser = argparse.ArgumentParser(
        prog="flax-resnet summary", description=summary_command.__doc__
    )
    parser.add_argument("name", help="a model, see flax-resnet list")
    parser.add_argument("--stem", choices=("imagenet", "cifar", "deep"))
    parser.add_argument("--num-classes", type=int)
    parser.add_argument("--image-size", type=int, help="height and width")
    parser.add_argument("--channels", type=int)
    parser.add_argument("--batch-size", type=int, default=32, help="for the memory estimate")
    options = parser.parse_args(list(arguments))
    chosen = {"stem": options.stem, "num_classes": options.num_classes}
    try:
        model = create_model(
            options.name, **{name: value for name, value in chosen.items() if value is not None}
        )
    except ValueError as error:
        raise UserError(str(error)[0].upper() + str(error)[1:], exit_code=2) from error
    height, width, channels = default_image_shape(model)
    size, channels = options.image_size, options.channels or channels
    if size is not None:
        height = width = size
    summary = summarize(model, (height, width, channels))
    console = Console(highlight=False)
    console.print(summary_table(f"{options.name}, {height}×{width}×{channels}", summary))
    weights = summary.weight_bytes / 1e6
    activations = summary.activation_bytes * options.batch_size / 1e6
    console.print(f"parameters  {summary.parameters:,}")
    console.print(f"GMACs       {summary.macs / 1e9:.3f} an image (papers' FLOPs)")
    console.print(
        f"memory      weights {weights:,.0f} MB; training, SGD with momentum, batch "
        f"{options.batch_size}: about {3 * weights + activations:,.0f} MB before XLA's savings"
    )


def convert_command(arguments: Sequence[str]) -> None:
    """Convert weights between .pth, .safetensors, .npz and a run's folder."""
    from .inference import convert_weights

    parser = argparse.ArgumentParser(
        prog="flax-resnet convert", description=convert_command.__doc__
    )
    parser.add_argument("source", metavar="IN", help="a file of weights or a run's folder")
    parser.add_argument(
        "target", metavar="OUT", help="a file; or a name without ending, for a run's folder"
    )
    parser.add_argument("--model", help="by default it is read off the arrays")
    parser.add_argument("--num-classes", type=int, help="another number: a fresh classifier")
    parser.add_argument(
        "--verify", action="store_true", help="read OUT again and compare logits, torchvision's too"
    )
    options = parser.parse_args(list(arguments))
    done = convert_weights(
        options.source,
        options.target,
        model=options.model,
        num_classes=options.num_classes,
        verify=options.verify,
    )
    model, classes = done.run.config.name, len(done.run.classes)
    print(f"{options.target}: {model}, {classes} classes, {done.arrays} arrays")
    for other, difference in done.differences.items():
        print(
            f"largest difference of a logit, {other}: {difference:.3g} "
            f"(largest logit {done.largest_logit:.3g})"
        )


def inspect_command(arguments: Sequence[str]) -> None:
    """Show the arrays of a file of weights, and which model they are of."""
    from .report import arrays_table
    from .weights import infer_model, read_weights, torchvision_names

    parser = argparse.ArgumentParser(
        prog="flax-resnet inspect", description=inspect_command.__doc__
    )
    parser.add_argument("file", metavar="FILE", help=".pth, .safetensors or .npz")
    path = parser.parse_args(list(arguments)).file
    arrays = {name: (value.shape, value.dtype.name) for name, value in read_weights(path).items()}
    Console(highlight=False).print(arrays_table(path, arrays))
    names = torchvision_names(arrays)
    shapes = {name: arrays[original][0] for name, original in names.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if "running_" not in name}
    print(f"arrays      {len(arrays)}")
    print(f"parameters  {sum(sizes.values()):,}")
    try:
        print(f"model       {infer_model(shapes)}")
    except UserError as error:
        print(f"model       unknown: {error}")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train_command,
    "list": list_command,
    "summary": summary_command,
    "convert": convert_command,
    "inspect": inspect_command,
    "check": check_command,
    "prepare": prepare_command,
    "augment-preview": preview_command,
}


def _usage() -> str:
    lines = ["usage: flax-resnet COMMAND [options]", ""]
    lines += [f"  {name:17}{command.__doc__}" for name, command in COMMANDS.items()]
    lines += ["", "flax-resnet COMMAND --help tells more; --debug shows tracebacks."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
