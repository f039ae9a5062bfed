"""Commands about models: list, summary."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from ..errors import UserError


def list_command(arguments: Sequence[str]) -> None:
    """List the models whose name matches a pattern."""
    from ..models import list_models

    parser = argparse.ArgumentParser(prog="flax-resnet list", description=list_command.__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'resnext*'")
    names = list_models(parser.parse_args(list(arguments)).pattern)
    if not names:
        raise UserError("No model matches; `flax-resnet list` shows all.")
    print("\n".join(names))


def summary_command(arguments: Sequence[str]) -> None:
    """Show a model's parameters, multiply-accumulates, output shapes and memory."""
    from ..models import CONV_IMPLS, create_model, default_image_shape, summarize
    from ..report import summary_table

    parser = argparse.ArgumentParser(
        prog="flax-resnet summary", description=summary_command.__doc__
    )
    parser.add_argument("name", help="a model, see flax-resnet list")
    parser.add_argument("--stem", choices=("imagenet", "cifar", "deep"))
    parser.add_argument("--num-classes", type=int)
    parser.add_argument("--image-size", type=int, help="height and width")
    parser.add_argument("--channels", type=int)
    parser.add_argument(
        "--conv-impl", choices=CONV_IMPLS, default="auto", help="how convolutions are computed"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="for the memory estimate")
    options = parser.parse_args(list(arguments))
    chosen = {
        "stem": options.stem,
        "num_classes": options.num_classes,
        "conv_impl": options.conv_impl,
    }
    try:
        model = create_model(
            options.name, **{name: value for name, value in chosen.items() if value is not None}
        )
        height, width, channels = default_image_shape(model)
        size, channels = options.image_size, options.channels or channels
        if size is not None:
            height = width = size
        summary = summarize(model, (height, width, channels))
    except ValueError as error:
        raise UserError(str(error)[0].upper() + str(error)[1:], exit_code=2) from error
    console = Console(highlight=False, soft_wrap=True)
    console.print(summary_table(f"{options.name}, {height}×{width}×{channels}", summary))
    weights = summary.weight_bytes / 1e6
    activations = summary.activation_bytes * options.batch_size / 1e6
    console.print(f"parameters  {summary.parameters:,}")
    console.print(f"GMACs       {summary.macs / 1e9:.3f} an image (papers' FLOPs)")
    console.print(
        f"memory      weights {weights:,.0f} MB; training, SGD with momentum, batch "
        f"{options.batch_size}: about {3 * weights + activations:,.0f} MB before XLA's savings"
    )
    ways = ", ".join(f"{count} {name}" for name, count in summary.lowerings.items())
    console.print(f"convolve    {ways}")
