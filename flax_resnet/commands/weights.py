"""Commands for weights: convert, inspect, push."""

import math
from collections.abc import Mapping
from typing import Literal

from ..errors import UserError
from .grammar import command
from .options import Model


@command
def convert_command(
    source: Model,
    target: str,
    /,
    *,
    model: str | None = None,
    num_classes: int | None = None,
    verify: bool = False,
    key: str | None = None,
    head: Literal["keep", "drop"] = "keep",
    stem_pool: Literal["none", "max"] | None = None,
    in_channels: int | None = None,
    in_channels_init: Literal["adapt", "fresh"] = "adapt",
) -> None:
    """Convert weights between .pth, .safetensors, .npz and run folders.

    Args:
        target: The file to write; a name without ending becomes a run's folder.
        model: The model's name; by default it is derived from the arrays.
        num_classes: Another number of classes: the classifier is initialised again.
        verify: Read the written file and compare logits, also with those of torchvision.
        key: Of a file with several ResNets, the key of one, such as state_dict_ema.
        head: Keep the classifier, or drop it and write the backbone alone.
        stem_pool: What follows the stem; after one 3x3 convolution a file may not tell it.
        in_channels: Another number of channels of the images.
        in_channels_init: The first convolution then: adapt sums the weights' channels for one
            channel, and else repeats and scales them; fresh is random.
    """
    from ..inference import convert_weights

    done = convert_weights(
        source,
        target,
        model=model,
        num_classes=num_classes,
        verify=verify,
        key=key,
        head=head,
        stem_pool=stem_pool,
        in_channels=in_channels,
        in_channels_init=in_channels_init,
    )
    info, count = done.classifier.info, len(done.classifier.classes)
    classes = f"{count} classes" if count else "no classifier"
    print(f"{target}: {info.config.name}, {classes}, {done.arrays} arrays")
    _print_rows(info.origin)
    for other, difference in done.differences.items():
        print(
            f"largest difference of a logit, {other}: {difference:.3g} "
            f"(largest logit {done.largest_logit:.3g})"
        )


@command
def push_command(
    source: Model,
    name: str,
    /,
    *,
    classes: str | None = None,
    license: str | None = None,
    private: bool = False,
    update: bool = False,
    folder: str | None = None,
) -> None:
    """Upload a model to the Hugging Face hub, in timm's format where timm has the model.

    The repository gets the weights, their description and a model card. An access token with the
    right to write is needed: log in with the command hf auth login, or set HF_TOKEN.

    Args:
        name: The repository, as org/name.
        classes: A file with other names of the classes: .txt with one a line, or .json.
        license: The licence of the weights, such as mit or apache-2.0, for the model card.
        private: Make a repository that only its owners see.
        update: Add a commit to a repository that exists.
        folder: Write the files to this folder instead, and upload nothing.
    """
    from ..inference import load, push_to_hub

    classifier = load(source, classes=classes)
    if folder is None:
        where, written = push_to_hub(
            classifier, name, private=private, license=license, update=update
        )
    else:
        written = classifier.save_pretrained(folder, name=name, license=license)
        where = folder
    why = f", because {written.reason}" if written.reason else ""
    print(f"{where}: in the format of {written.format}{why}")


@command
def inspect_command(file: str, /, *, key: str | None = None) -> None:
    """Show the arrays of a weights file and which model they fit.

    Args:
        file: A weights file.
        key: Of a file with several ResNets, the key of one, such as state_dict_ema.
    """
    from rich.console import Console

    from ..paths import expand
    from ..report import arrays_table
    from ..weights import find_weights, infer_model, read_file, read_unseen_options

    weights = find_weights(read_file(file), key, file)
    arrays = {name: (value.shape, value.dtype.name) for name, value in weights.tensors.items()}
    Console(highlight=False).print(arrays_table(file, arrays))
    shapes = weights.shapes()
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if "running_" not in name}
    print(f"arrays      {len(arrays)}")
    print(f"parameters  {sum(sizes.values()):,}")
    _print_rows(weights.origin())
    try:
        inferred = infer_model(shapes, known=read_unseen_options(expand(file)))
        print(f"model       {inferred}")
    except UserError as error:
        print("model       unknown")
        raise UserError(f"{file}: {error}") from error
    if inferred.same_arrays:
        print(f"same arrays {', '.join(inferred.same_arrays)}: --model chooses")
    if "stem_pool" in inferred.unknown and weights.stem_pool() is None:
        print("stem        the file does not tell whether a max-pool follows: --stem-pool chooses")
    if weights.resnet.head_problem:
        print(f"classifier  none is read: the file {weights.resnet.head_problem}")


def _print_rows(rows: Mapping[str, str]) -> None:
    for name, row in rows.items():
        print(f"{name:12}{row}")
