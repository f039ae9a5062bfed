"""Inference of the model that a state dict belongs to, from names and shapes of its arrays."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..models import ResNet, create_model
from ..models.blocks import EXPANSION
from ..models.variants import VARIANTS, variant_options
from .names import head_modules

Shape = tuple[int, ...]


@dataclass(frozen=True)
class InferredModel:
    """A named model, and the options that differ from those of the name.

    ``version="v1"`` and ``"v1.5"`` have the same arrays; the latter is inferred.

    Attributes:
        name: Name of the variant.
        options: Options that differ from the variant's.
        classes: Number of classes; None where the arrays hold no classifier.
    """

    name: str
    options: Mapping[str, Any]
    classes: int | None

    def create(self, **options: Any) -> ResNet:
        """Create the model; ``options`` override the inferred ones."""
        return create_model(self.name, **{**self.options, **options})

    def __str__(self) -> str:
        switches = [f"{option}={value!r}" for option, value in self.options.items()]
        return f"{self.name} ({', '.join(switches)})" if switches else self.name


def infer_model(shapes: Mapping[str, Shape]) -> InferredModel:
    """Infer the model whose arrays have these torchvision names and PyTorch shapes.

    Raises:
        UserError: The arrays are not those of a ResNet, or of one that no name stands for.
    """
    found = _architecture(shapes)
    switches = _switches(shapes)
    for name in _candidates(found):
        row = {**_DEFAULTS, **variant_options(name)}
        if all(row[option] == value for option, value in found.items()):
            own = switches | {"stem_width": _stem_width(shapes, row)}
            differing = {key: value for key, value in own.items() if row[key] != value}
            return InferredModel(name, differing, switches.get("num_classes"))
    described = ", ".join(f"{option}={value!r}" for option, value in found.items())
    raise UserError(
        f"These are weights of a ResNet that no name stands for ({described}): create it with "
        "flax_resnet.ResNet and load them with from_torchvision."
    )


_DEFAULTS = {
    name: field.default
    for name, field in ResNet.__dataclass_fields__.items()
    if name not in ("parent", "name")
}


def _architecture(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the options by which the names differ."""
    numbers = [re.match(r"layer(\d+)\.(\d+)\.conv\d\.weight$", name) for name in shapes]
    blocks = [(int(match[1]), int(match[2])) for match in numbers if match]
    stages = sorted({stage for stage, _ in blocks})
    if stages != list(range(1, len(stages) + 1)) or not stages:
        raise UserError(
            "These are not the weights of a ResNet: there is no layer1.0.conv1.weight among "
            f"{len(shapes)} arrays such as {', '.join(list(shapes)[:3])}."
        )
    sizes = tuple(1 + max(i for stage, i in blocks if stage == number) for number in stages)
    block = "bottleneck" if "layer1.0.conv3.weight" in shapes else "basic"
    last = "conv3" if block == "bottleneck" else "conv1"
    try:
        widths = tuple(
            shapes[f"layer{stage}.0.{last}.weight"][0] // EXPANSION[block] for stage in stages
        )
        width, fan_in = shapes["layer1.0.conv2.weight"][:2]
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"These weights of a ResNet are incomplete: {error} is missing or not a convolution's."
        ) from error
    groups = width // fan_in if block == "bottleneck" and fan_in else 1
    return {
        "stage_sizes": sizes,
        "block": block,
        "widths": widths,
        "groups": groups,
        "width_per_group": width * 64 // (groups * widths[0]) if block == "bottleneck" else 64,
        "version": "v2" if "bn_last.weight" in shapes else "v1.5",
        "residual": True,
    }


def _switches(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the options that every named model has."""
    conv1 = shapes.get("conv1.weight", ())
    stem = "deep" if "conv1.0.weight" in shapes else "cifar" if conv1[2:] == (3, 3) else "imagenet"
    projected = [
        name for name in shapes if re.match(r"layer\d+\.\d+\.downsample\.[01]\.weight$", name)
    ]
    changes = any(name.startswith("layer2.0.") for name in projected)
    everywhere = any(name.startswith("layer2.1.") for name in projected)
    pooled = len(shapes.get("layer2.0.downsample.1.weight", ())) == 4
    switches: dict[str, Any] = {
        "stem": stem,
        "shortcut": "C" if everywhere else "B" if changes else "A",
        "avg_pool_shortcut": pooled,
        "norm": "batch" if any(name.endswith("running_mean") for name in shapes) else "group",
    }
    hidden = _hidden(shapes)
    head = f"{head_modules(len(hidden)).get('fc', 'fc')}.weight"
    if head in shapes:
        switches |= {"num_classes": shapes[head][0], "hidden": hidden}
    return switches


def _hidden(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    """Return the widths of the head's hidden layers; fc.0 and fc.3 are one and the classifier."""
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"fc\.(\d+)\.weight$", name))}
    count = len(numbers) - 1
    wanted = {int(name.removeprefix("fc.")) for name in head_modules(count).values()}
    # Projection heads, such as MoCo's, have another layout.
    return tuple(shapes[f"fc.{2 * i}.weight"][0] for i in range(count)) if numbers == wanted else ()


def _stem_width(shapes: Mapping[str, Shape], row: Mapping[str, Any]) -> int | None:
    first = shapes.get("conv1.weight") or shapes.get("conv1.6.weight") or (None,)
    usual = row["stem_width"] or row["widths"][0]
    return row["stem_width"] if first[0] in (None, usual) else first[0]


def _candidates(found: Mapping[str, Any]) -> list[str]:
    """Return names to compare with: the table's, and family members of that depth."""
    size, factor = found["stage_sizes"][0], found["widths"][0] // 16
    families = [f"resnet{6 * size + 2}", f"resnet{9 * size + 2}_v2", f"wrn{6 * size + 4}_{factor}"]
    return [name for name in VARIANTS if name != "resnet_mnist"] + families
