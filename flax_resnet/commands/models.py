"""Commands for models: list, summary."""

from typing import Literal

from ..errors import UserError
from .grammar import command


@command
def list_command(pattern: str = "*", /) -> None:
    """List the models whose name matches a pattern.

    Args:
        pattern: A pattern such as 'resnext*'.
    """
    from ..models import list_models

    names = list_models(pattern)
    if not names:
        raise UserError("No model matches; `flax-resnet list` shows all.")
    print("\n".join(names))


@command
def summary_command(
    name: str,
    /,
    *,
    stem: Literal["imagenet", "cifar", "deep", "tiered"] | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    conv_impl: Literal["auto", "jax", "onednn", "reference"] = "auto",
    batch_size: int = 32,
    plot: str | None = None,
) -> None:
    """Show a model's size, cost, output shapes and memory.

    Args:
        name: A model from `flax-resnet list`.
        stem: The first layers; by default those of the model.
        num_classes: The number of classes; by default that of the model.
        image_size: The height and width of images.
        channels: The number of image channels.
        conv_impl: How convolutions are computed.
        batch_size: Images in a training step, for the memory estimate.
        plot: Also draw a block diagram of the stages to this .svg, .png or .pdf.
    """
    from rich.console import Console

    from ..models import create_model, default_image_shape, summarize
    from ..report import summary_table

    options = {"stem": stem, "num_classes": num_classes, "conv_impl": conv_impl}
    try:
        model = create_model(
            name, **{option: value for option, value in options.items() if value is not None}
        )
        height, width, default_channels = default_image_shape(model)
        height, width = (height, width) if image_size is None else (image_size, image_size)
        shape = (height, width, channels or default_channels)
        summary = summarize(model, shape)
    except ValueError as error:
        raise UserError(str(error)[0].upper() + str(error)[1:], exit_code=2) from error
    console = Console(highlight=False, soft_wrap=True)
    console.print(summary_table(f"{name}, {'×'.join(map(str, shape))}", summary))
    weights = summary.weight_bytes / 1e6
    activations = summary.activation_bytes * batch_size / 1e6
    console.print(f"parameters  {summary.parameters:,}")
    console.print(f"GMACs       {summary.macs / 1e9:.3f} an image (papers' FLOPs)")
    console.print(
        f"memory      weights {weights:,.0f} MB; training, SGD with momentum, batch "
        f"{batch_size}: about {3 * weights + activations:,.0f} MB before XLA's savings"
    )
    counts = ", ".join(f"{count} {name}" for name, count in summary.lowerings.items())
    console.print(f"convolve    {counts}")
    if plot:
        from ..report.diagram import save_diagram

        save_diagram(model, summary, shape, name, plot)
        print(f"Look at {plot}.")
