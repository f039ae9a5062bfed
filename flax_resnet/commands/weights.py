"""Commands for weights: convert, inspect."""

import math

from ..errors import UserError
from .grammar import command


@command
def convert_command(
    source: str,
    target: str,
    /,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    verify: bool = False,
) -> None:
    """Convert weights between .pth, .safetensors, .npz and run folders.

    Args:
        source: A run's folder, a weights file, or a published model such as resnet50.
        target: The file to write; a name without ending becomes a run's folder.
        model: The model's name; by default it is derived from the arrays.
        num_classes: Another number of classes: the classifier is initialised again.
        verify: Read the written file and compare logits, also with those of torchvision.
    """
    from ..inference import convert_weights

    done = convert_weights(source, target, model=model, num_classes=num_classes, verify=verify)
    name, classes = done.classifier.info.config.name, len(done.classifier.classes)
    print(f"{target}: {name}, {classes} classes, {done.arrays} arrays")
    for other, difference in done.differences.items():
        print(
            f"largest difference of a logit, {other}: {difference:.3g} "
            f"(largest logit {done.largest_logit:.3g})"
        )


@command
def inspect_command(file: str, /) -> None:
    """Show the arrays of a weights file and which model they fit.

    Args:
        file: A .pth, .safetensors or .npz file.
    """
    from rich.console import Console

    from ..report import arrays_table
    from ..weights import infer_model, read_weights, torchvision_names

    arrays = {name: (value.shape, value.dtype.name) for name, value in read_weights(file).items()}
    Console(highlight=False).print(arrays_table(file, arrays))
    names = torchvision_names(arrays)
    shapes = {name: arrays[original][0] for name, original in names.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if "running_" not in name}
    print(f"arrays      {len(arrays)}")
    print(f"parameters  {sum(sizes.values()):,}")
    try:
        print(f"model       {infer_model(shapes)}")
    except UserError as error:
        print("model       unknown")
        raise UserError(f"{file}: {error}") from error
