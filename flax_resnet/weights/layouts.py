"""Names that other projects give to the arrays of a ResNet, mapped to torchvision's.

A ResNet is found by the first convolution of its first block, below any prefix and beside any other
arrays.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .names import COUNTER, head_modules
from .timm import from_v2_names
from .transformers import torchvision_name

Shape = tuple[int, ...]

# Modules that are a classifier, or hold one, by their usual names.
HEADS = ("fc", "classifier", "linear", "head", "last_linear", "logits", "cls_head")

# Modules beside the layers of a ResNet that its features do not depend on.
LEFT = re.compile(r"^(\w*(proj|prototype|predict|queue|loss|criterion|decoder|mlp)|aux)")

# Their ``fc`` is a projection for contrastive learning (He et al. 2020, Chen et al. 2021), whose
# outputs are no classes. encoder_k and momentum_encoder are moving averages of the others.
CONTRASTIVE = ("encoder_q", "encoder_k", "base_encoder", "momentum_encoder")


@dataclass(frozen=True)
class FoundResNet:
    """The arrays of one ResNet among the names of a state dict.

    Attributes:
        prefix: What the names of its arrays begin with.
        names: By torchvision's name, the name in the state dict. Arrays of the same module that
            have no name in torchvision keep their own, without the prefix.
        others: Names of the other arrays of the state dict.
        head_problem: Why its head was left among ``others``: the end of a sentence about the
            weights; empty where there is none or it was taken.
        is_projection: Whether ``fc`` is one of contrastive learning, whose outputs are no classes.
        stem_pool: ``"none"`` where the project's networks have no pooling after their stem.
    """

    prefix: str
    names: Mapping[str, str]
    others: tuple[str, ...]
    head_problem: str = ""
    is_projection: bool = False
    stem_pool: Literal["none"] | None = None


def find_resnets(shapes: Mapping[str, Shape]) -> list[FoundResNet]:
    """Return the ResNets among arrays with these names and shapes.

    Example: ``module.linear.weight`` among the names gives ``{"fc.weight":
    "module.linear.weight", ...}``. Counters of batch norm are left out.
    """
    names = [name for name in shapes if name.rpartition(".")[2] != COUNTER]
    found: dict[str, FoundResNet] = {}
    for naming in NAMINGS:
        matches = (re.fullmatch(naming.first, name) for name in names)
        for prefix in dict.fromkeys(match[1] for match in matches if match):
            found.setdefault(prefix, _resnet(naming, prefix, names, shapes))
    return list(found.values())


@dataclass(frozen=True)
class _Naming:
    """A project's names: a pattern of the first convolution of the first block, whose group is the
    prefix; a function from all names below the prefix to torchvision's; and its own documentation.
    """

    first: str
    rename: Callable[[Collection[str]], dict[str, str]]


def _by_patterns(*rules: tuple[str, str]) -> Callable[[Collection[str]], dict[str, str]]:
    def rename(names: Collection[str]) -> dict[str, str]:
        renamed = {}
        for name in names:
            new = name
            for pattern, replacement in rules:
                new = re.sub(pattern, replacement, new)
            renamed[name] = new
        return renamed

    return rename


def _children(names: Collection[str]) -> dict[str, str]:
    """Rename ``nn.Sequential(*resnet.children())``: 0 is conv1, 1 is bn1, 4 is layer1, ...

    The activation and the pooling between have no arrays, and may be left out.
    """
    numbers = {name.partition(".")[0] for name in names}
    ordered = sorted((number for number in numbers if number.isdecimal()), key=int)
    stages = [n for n in ordered if any(name.startswith(f"{n}.0.conv1.") for name in names)]
    first, last = ordered.index(stages[0]), ordered.index(stages[-1])
    modules = dict(zip(stages, (f"layer{i + 1}" for i in range(len(stages))), strict=True))
    modules |= dict(zip(ordered[:first], ("conv1", "bn1"), strict=False))
    modules |= dict(zip(ordered[last + 1 :], ("fc",), strict=False))
    return {
        name: ".".join([modules.get(module, module), rest])
        for name in names
        for module, _, rest in (name.partition("."),)
    }


NAMINGS = (
    # torchvision, timm, and akamaster/pytorch_resnet_cifar10 and kuangliu/pytorch-cifar, which have
    # ``linear`` and ``shortcut``.
    _Naming(
        r"(|.*\.)layer1\.0\.conv1\.weight",
        _by_patterns((r"\.shortcut\.", ".downsample."), (r"^stem\.(?=\d)", "conv1.")),
    ),
    _Naming(r"(|.*\.)\d+\.0\.conv1\.weight", _children),
    # huggingface/transformers
    _Naming(
        r"(|.*\.)encoder\.stages\.0\.layers\.0\.layer\.0\.convolution\.weight",
        lambda names: {name: torchvision_name(name) for name in names},
    ),
    _Naming(
        r"(|.*\.)stages\.0\.blocks\.0\.conv1\.weight",  # timm's ResNetV2
        lambda names: {
            name: new for new, name in from_v2_names(dict(zip(names, names, strict=True))).items()
        },
    ),
    # weiaicunzai/pytorch-cifar100
    _Naming(
        r"(|.*\.)conv2_x\.0\.residual_function\.0\.weight",
        _by_patterns(
            *((rf"^conv{stage + 1}_x\.", f"layer{stage}.") for stage in range(1, 5)),
            *(
                (rf"\.residual_function\.{3 * i + j}\.", f".{kind}{i + 1}.")
                for i in range(3)
                for j, kind in enumerate(("conv", "bn"))
            ),
            (r"\.shortcut\.", ".downsample."),
        ),
    ),
)


def _resnet(
    naming: _Naming, prefix: str, names: Collection[str], shapes: Mapping[str, Shape]
) -> FoundResNet:
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    body: dict[str, str] = {}
    for name, new in _plain_stem(naming.rename(inner)).items():
        body[name if new in body else new] = prefix + name
    modules = {new.partition(".")[0] for new in body}
    own = [name for name in HEADS if name in modules]
    if own:
        heads = {f"{prefix}{head}": _below(f"{head}.", body) for head in own}
    else:
        heads = _outer_heads(prefix, body, names, shapes)
    head, problem = _linear(heads, shapes)
    left = {new for new in body if new.partition(".")[0] in HEADS or LEFT.search(new)}
    found = {new: name for new, name in body.items() if new not in left} | head
    used = set(found.values())
    others = tuple(name for name in names if name not in used)
    contrastive = prefix.rstrip(".").rpartition(".")[2] in CONTRASTIVE
    # kuangliu/pytorch-cifar and weiaicunzai/pytorch-cifar100, which call it so, do not pool.
    is_small = shapes.get(found.get("conv1.weight", ""), ())[2:] == (3, 3)
    calls_so = any(".shortcut." in name for name in inner)
    stem_pool: Literal["none"] | None = "none" if calls_so and is_small else None
    return FoundResNet(prefix, found, others, problem, contrastive and bool(head), stem_pool)


def _plain_stem(renamed: dict[str, str]) -> dict[str, str]:
    """Rename a ``Sequential`` stem: convolution and norm, or three of each whose last is bn1."""
    present = set(renamed.values())
    if "conv1.0.weight" not in present:
        return renamed
    deep = "conv1.3.weight" in present
    modules = {"conv1.7": "bn1"} if deep else {"conv1.0": "conv1", "conv1.1": "bn1"}
    changed = {}
    for name, new in renamed.items():
        module, _, leaf = new.rpartition(".")
        changed[name] = f"{modules.get(module, module)}.{leaf}"
    return changed


def _below(start: str, names: Mapping[str, str]) -> dict[str, str]:
    return {new.removeprefix(start): n for new, n in names.items() if new.startswith(start)}


def _outer_heads(
    prefix: str, body: Mapping[str, str], names: Collection[str], shapes: Mapping[str, Shape]
) -> dict[str, dict[str, str]]:
    """Return the linear layers on the ResNet's features in the modules around it, by module."""
    found = {}
    number = prefix.rstrip(".").rpartition(".")[2]
    next_ones = range(int(number) + 1, int(number) + 5) if number.isdecimal() else ()
    for outer in _enclosing(prefix):
        for head in (*HEADS, *map(str, next_ones)):  # also the rest of an nn.Sequential
            arrays = _below(f"{outer}{head}.", dict(zip(names, names, strict=True)))
            linear, problem = _linear({head: arrays}, shapes)
            if linear and not problem and _features(body, shapes) == shapes[linear["fc.weight"]][1]:
                found[f"{outer}{head}"] = arrays
    return found


def _linear(
    heads: Mapping[str, Mapping[str, str]], shapes: Mapping[str, Shape]
) -> tuple[dict[str, str], str]:
    """Return the only head by torchvision's names, and why it cannot be taken, if so."""
    heads = {where: arrays for where, arrays in heads.items() if arrays}
    if not heads:
        return {}, ""
    if len(heads) > 1:
        return {}, f"has more than one head: {' and '.join(heads)}"
    where, arrays = next(iter(heads.items()))
    modules = sorted({name.rpartition(".")[0] for name in arrays})
    kernels = [shapes[arrays[name]] for name in arrays if name.rpartition(".")[2] == "weight"]
    are_linear = len(kernels) == len(modules) and all(len(kernel) > 1 for kernel in kernels)
    if are_linear and len(modules) == 1 and len(arrays) <= 2:
        start = f"{modules[0]}." if modules[0] else ""
        return {f"fc.{name.removeprefix(start)}": n for name, n in arrays.items()}, ""
    if are_linear and {f"fc.{n}" for n in modules} == {*head_modules(len(modules) - 1).values()}:
        return {f"fc.{name}": original for name, original in arrays.items()}, ""
    layers = ", ".join(f"{where}.{name}".rstrip(".") for name in modules)
    return {}, (
        f"has a head that is not one linear layer but {layers}, and a file does not tell how they "
        "are joined"
    )


def _features(body: Mapping[str, str], shapes: Mapping[str, Shape]) -> int | None:
    """Return the number of channels of the last stage."""
    convs = [re.fullmatch(r"layer(\d+)\.0\.conv(\d+)\.weight", name) for name in body]
    last = max((match for match in convs if match), key=lambda m: (int(m[1]), int(m[2])))
    shape = shapes[body[last.string]]
    return shape[0] if shape else None


def _enclosing(prefix: str) -> Iterator[str]:
    """Yield the prefixes of the modules around one: of ``a.b.`` they are ``a.`` and the empty."""
    while prefix:
        prefix = prefix.rstrip(".").rpartition(".")[0]
        prefix += "." if prefix else ""
        yield prefix
