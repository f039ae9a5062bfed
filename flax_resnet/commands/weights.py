"""Commands about weights: convert, inspect."""

import argparse
import math
from collections.abc import Sequence

from rich.console import Console

from ..errors import UserError


def convert_command(arguments: Sequence[str]) -> None:
    """Convert weights between .pth, .safetensors, .npz and a run's folder."""
    from ..inference import convert_weights

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
    from ..report import arrays_table
    from ..weights import infer_model, read_weights, torchvision_names

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
