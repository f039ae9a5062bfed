"""Inference of the model that a state dict belongs to, from names and shapes of its arrays."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..models import ResNet, create_model
from ..models.blocks import EXPANSION
from ..models.timm_variants import TIMM_VARIANTS
from ..models.variants import ANY, REQUIRED, VARIANTS, variant_options
from .input_channels import kernel_channels
from .names import head_modules, torch_leaves

Shape = tuple[int, ...]

# Options that decide what a model computes and may leave no trace in names and shapes of arrays.
UNSEEN_OPTIONS = (
    *("version", "residual", "epsilon", "stem_pool", "anti_alias", "standardized_kernels"),
    *("avg_pool_shortcut", "output_stride", "downsampling", "pooling"),
)
# Those of them by which rows of the table of models differ.
INVISIBLE = ("residual", "anti_alias", "standardized_kernels")
# Entry of the metadata of our .safetensors files: JSON of the options above.
OPTIONS_ENTRY = "flax_resnet_options"


@dataclass(frozen=True)
class InferredModel:
    """A named model, and the options that differ from those of the name.

    Some options leave no trace in arrays; their usual value is inferred. ``version="v1"`` and
    ``"v1.5"`` have the same arrays: the latter, unless it is known. ``anti_alias`` and
    ``residual`` have none.

    Attributes:
        name: Name of the variant; ``"resnet"`` where no other name stands for the architecture.
        options: Options that differ from the variant's.
        classes: Number of classes; None where the arrays hold no classifier.
        unknown: Options of which two values are usual for such arrays: ``"stem_pool"`` after a stem
            of one 3x3 convolution, ``"standardized_kernels"`` in pre-activation networks with group
            norm, ``"anti_alias"`` for arrays that several of timm's models have.
        same_arrays: Names of timm's models with the same arrays that compute something else.
    """

    name: str
    options: Mapping[str, Any]
    classes: int | None
    unknown: tuple[str, ...] = ()
    same_arrays: tuple[str, ...] = ()

    def create(self, **options: Any) -> ResNet:
        """Create the model; ``options`` override the inferred ones."""
        return create_model(self.name, **{**self.options, **options})

    def is_bottleneck(self) -> bool:
        """Return whether the blocks are bottlenecks, of which v1 and v1.5 differ."""
        row = {**variant_options(self.name), **self.options}
        return row["block"] == "bottleneck" and row.get("version") != "v2"

    def __str__(self) -> str:
        switches = [f"{option}={value!r}" for option, value in self.options.items()]
        return f"{self.name} ({', '.join(switches)})" if switches else self.name


def infer_model(
    shapes: Mapping[str, Shape],
    *,
    name: str | None = None,
    known: Mapping[str, Any] | None = None,
) -> InferredModel:
    """Infer the model whose arrays have these torchvision names and PyTorch shapes.

    It is the variant with the fewest differing options among those without ``INVISIBLE`` ones.

    Args:
        shapes: Shapes by name.
        name: The variant, where it is known; only its options are then inferred.
        known: Options that are known from elsewhere, such as ``UNSEEN_OPTIONS``.

    Raises:
        UserError: The arrays are not those of a ResNet, or of the model ``name``.
    """
    known = dict(known or {})
    if name is not None and variant_options(name).get("downsampling") == "conv_pool":
        return _infer_conv_pool(name, shapes, known)
    architecture = _architecture(shapes)
    architecture |= {option: value for option, value in known.items() if option in architecture}
    switches = _switches(shapes) | known
    # No name stands for v1: it is one of the options that differ from those of the name.
    named = architecture | ({"version": "v1.5"} if architecture["version"] == "v1" else {})
    fitting: dict[str, dict[str, Any]] = {}
    for candidate in _candidates(architecture) if name is None else [name]:
        row = {**_DEFAULTS, **variant_options(candidate)}
        if all(row[option] == value for option, value in named.items()):
            own = {"stem_width": _stem_width(shapes, row)} | switches
            if row["stem_pool"] == "zero_padded_max" and "stem_pool" not in known:
                own["stem_pool"] = own["stem_pool"] or row["stem_pool"]
            if not row["residual"]:
                own["shortcut"] = row["shortcut"]  # there are none
            fitting[candidate] = {key: value for key, value in own.items() if row[key] != value}
    classes = switches.get("num_classes")
    if name is not None:
        if name not in fitting:
            raise UserError(f"These are not the weights of {name}.")
        return InferredModel(name, fitting[name], classes, _unknown(architecture, fitting[name]))
    plain = [candidate for candidate in fitting if _is_plain(candidate, known)]
    if not plain:
        width = _stem_width(shapes, _DEFAULTS | architecture)
        own = architecture | switches | {"stem_width": width}
        differing = {k: v for k, v in own.items() if k in REQUIRED or v != _DEFAULTS[k]}
        return InferredModel(ANY, differing, classes, _unknown(architecture, switches, known))
    best = min(plain, key=lambda candidate: len(fitting[candidate]))
    same = tuple(
        candidate
        for candidate, differing in fitting.items()
        if candidate in TIMM_VARIANTS
        and candidate not in plain
        and len(differing) <= len(fitting[best])
    )
    unknown = _unknown(architecture, switches, known)
    if best in TIMM_VARIANTS and any(TIMM_VARIANTS[other].get("anti_alias") for other in same):
        unknown = (*unknown, "anti_alias")
    return InferredModel(best, fitting[best], classes, unknown, same)


def _infer_conv_pool(
    name: str, shapes: Mapping[str, Shape], known: Mapping[str, Any]
) -> InferredModel:
    """Infer the head of the model ``name``, whose stages begin with a convolution of their own.

    All other arrays must be those of the name: stages without blocks cannot be counted in them.

    Raises:
        UserError: They are not.
    """
    row, head = {**_DEFAULTS, **variant_options(name)}, _head(shapes)
    options = {key: value for key, value in (head | dict(known)).items() if row[key] != value}
    leaves = torch_leaves(create_model(name, **options), kernel_channels(shapes))
    for array, leaf in leaves.items():
        if not array.startswith("fc.") and shapes.get(array) != leaf.torch_shape:
            raise UserError(f"These are not the weights of {name}.")
    return InferredModel(name, options, head.get("num_classes"))


def _is_plain(name: str, known: Mapping[str, Any]) -> bool:
    """Return whether a variant has the usual values of the invisible options that are unknown."""
    row = {**_DEFAULTS, **variant_options(name)}
    return all(option in known or row[option] == _DEFAULTS[option] for option in INVISIBLE)


def _unknown(
    architecture: Mapping[str, Any],
    switches: Mapping[str, Any],
    known: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """Return the options of which two values are usual for such arrays."""
    # Networks of three stages are those for 32x32 images of He et al. 2015a, which do not pool.
    pools = switches.get("stem") == "cifar" and len(architecture["stage_sizes"]) != 3
    standardizes = architecture["version"] == "v2" and switches.get("norm") == "group"
    found = ["stem_pool"] * pools + ["standardized_kernels"] * standardizes
    return tuple(option for option in found if option not in (known or {}))


def unseen_metadata(model: ResNet) -> dict[str, str]:
    """Return the entry of a file's metadata with the options that arrays do not show."""
    options = {option: getattr(model, option) for option in UNSEEN_OPTIONS}
    return {OPTIONS_ENTRY: json.dumps(options)}


def check_recognisable(path: Any, shapes: Mapping[str, Shape], model: ResNet) -> None:
    """Check that a file of these arrays alone would not be taken for another model.

    Raises:
        UserError: It would.
    """
    try:
        inferred = infer_model(shapes)
    except UserError:
        return  # as reading it will say
    taken_for = _DEFAULTS | variant_options(inferred.name) | dict(inferred.options)
    differing = [
        f"{option}={getattr(model, option)!r}"
        for option in UNSEEN_OPTIONS
        if getattr(model, option) != taken_for[option] and option not in inferred.unknown
    ]
    if differing:
        raise UserError(
            f"{path} cannot hold this model: its arrays do not show {', '.join(differing)}, and "
            f"would be taken for {inferred}; write a .safetensors file, which says it."
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
    if not min(widths):
        raise UserError("These weights of a ResNet are incomplete: a convolution has no channels.")
    groups = width // fan_in if block == "bottleneck" and fan_in else 1
    return {
        "stage_sizes": sizes,
        "block": block,
        "widths": widths,
        "groups": groups,
        "width_per_group": width * 64 // (groups * widths[0]) if block == "bottleneck" else 64,
        "version": "v2" if "bn_last.weight" in shapes else "v1.5",
        **_attention(shapes),
    }


def _attention(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    if "layer1.0.se.conv.weight" in shapes:
        return {"attention": "eca"}
    if "layer1.0.se.fc1.weight" not in shapes:
        return {"attention": None}
    last = max(name for name in shapes if name.endswith(".0.se.fc1.weight"))
    hidden, channels = shapes[last][:2]
    return {"attention": "se", "se_reduction": channels // hidden}


def _switches(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the options that every named model has."""
    conv1 = shapes.get("conv1.weight", ())
    stem = "cifar" if conv1[2:] == (3, 3) else "imagenet"
    if "conv1.0.weight" in shapes:
        first, second = (shapes.get(f"conv1.{i}.weight", (0,))[0] for i in (0, 3))
        stem = "deep" if first == second else "tiered"
    projected = [
        (int(match[1]), int(match[2]))
        for name in shapes
        if (match := re.match(r"layer(\d+)\.(\d+)\.downsample\.[01]\.weight$", name))
    ]
    # A basic block of the first stage has no need to project, unless the stem has another width.
    kernel = shapes.get("layer1.0.conv2.weight", (0, 0))
    same = "layer1.0.conv3.weight" not in shapes and kernel[0] == _stem_channels(shapes)
    everywhere = any(block > 0 for _, block in projected) or ((1, 0) in projected and same)
    pooled = len(shapes.get("layer2.0.downsample.1.weight", ())) == 4
    switches: dict[str, Any] = {
        "stem": stem,
        "stem_pool": "conv" if "maxpool.0.weight" in shapes else None,
        "shortcut": "C" if everywhere else "B" if projected else "A",
        "avg_pool_shortcut": pooled,
        "norm": "batch" if any(name.endswith("running_mean") for name in shapes) else "group",
    }
    return switches | _head(shapes)


def _head(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return the options of the classifier; empty where there is none."""
    hidden = _hidden(shapes)
    head = f"{head_modules(len(hidden)).get('fc', 'fc')}.weight"
    return {"num_classes": shapes[head][0], "hidden": hidden} if head in shapes else {}


def _hidden(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    """Return the widths of the head's hidden layers; fc.0 and fc.3 are one and the classifier."""
    numbers = {int(match[1]) for name in shapes if (match := re.match(r"fc\.(\d+)\.weight$", name))}
    count = len(numbers) - 1
    wanted = {int(name.removeprefix("fc.")) for name in head_modules(count).values()}
    # Projection heads, such as MoCo's, have another layout.
    return tuple(shapes[f"fc.{2 * i}.weight"][0] for i in range(count)) if numbers == wanted else ()


def _stem_channels(shapes: Mapping[str, Shape]) -> int | None:
    kernel = shapes.get("conv1.weight") or shapes.get("conv1.6.weight")
    return kernel[0] if kernel else None


def _stem_width(shapes: Mapping[str, Shape], row: Mapping[str, Any]) -> int | None:
    width = _stem_channels(shapes)
    usual = row["stem_width"] or row["widths"][0]
    return row["stem_width"] if width in (None, usual) else width


def _candidates(found: Mapping[str, Any]) -> list[str]:
    """Return names to compare with: the table's, and family members of that depth."""
    size, factor = found["stage_sizes"][0], found["widths"][0] // 16
    families = [f"resnet{6 * size + 2}", f"resnet{9 * size + 2}_v2", f"wrn{6 * size + 4}_{factor}"]
    return [name for name in VARIANTS if name != "resnet_mnist"] + families
