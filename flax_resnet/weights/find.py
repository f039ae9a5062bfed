"""The search for a ResNet's arrays in what a file holds: state dicts, wrappers, whole models."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UserError
from .arrays import array_shapes, is_array
from .formats.numpy_objects import array_of
from .formats.pickled_names import Foreign, ForeignClass
from .layouts import FoundResNet, find_resnets

# Bounds of the search; a hostile file can hold a module that is inside itself.
MOST_WRAPPERS = 5
MOST_MODULES = 20_000
MOST_LETTERS = 300  # of a module's name
MOST_ITEMS = 64  # of a list

# Names of moving averages of the weights that were trained.
_AVERAGES = re.compile(r"(^|[._])(ema|momentum|encoder_k|shadow|swa|averaged?)(\d|[._]|$)")


StemPool = Literal["none", "max"]


@dataclass(frozen=True)
class FoundWeights:
    """The arrays of a ResNet in a file or checkpoint, and what else is there.

    Attributes:
        key: Where they are, as ``"state_dict.module"``: entries of the checkpoint, then the prefix
            of the names; empty where the arrays are all there is.
        tensors: Arrays of the state dict by its own names.
        resnet: The ResNet among these names.
        averages: Keys of other ResNets that are moving averages of weights.
        left: Descriptions of everything else.
        modules: Of a whole model, the class of each module that is called ``maxpool`` and the
            stride of each other that has one, by name.
    """

    key: str
    tensors: Mapping[str, Any]
    resnet: FoundResNet
    averages: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    modules: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> Mapping[str, str]:
        """By torchvision's name, the name in ``tensors``."""
        return self.resnet.names

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return shapes by torchvision's name."""
        stored = array_shapes(self.tensors)
        return {name: stored[original] for name, original in self.names.items()}

    def stem_pool(self) -> StemPool | None:
        """Return whether a max-pool follows the stem, where the names or the modules tell it."""
        module = self.modules.get(f"{self.resnet.prefix}maxpool", "")
        kinds: dict[str, StemPool] = {"MaxPool2d": "max", "Identity": "none"}
        return kinds.get(module.rpartition(".")[2], self.resnet.stem_pool)

    def stride(self, convolution: str) -> int | None:
        """Return the stride of a convolution by torchvision's name, where the modules tell it."""
        kernel = self.names.get(f"{convolution}.weight", "")
        stride = self.modules.get(kernel.removesuffix(".weight"))
        return stride[0] if isinstance(stride, tuple) and stride else None

    def origin(self) -> dict[str, str]:
        """Return what was used and what was left, as rows of a report; without empty ones."""
        chooses = " (--key chooses one)"
        rows = {
            "used": self.key,
            "averages": ", ".join(self.averages) + chooses * bool(self.averages),
            "left": ", ".join(self.left),
        }
        return {name: row for name, row in rows.items() if row}


def choose(options: str, keyword: str) -> str:
    """Return what to do where a file does not tell something: only some commands have options for
    it, and what ``convert`` writes holds the choice for all of them."""
    return (
        f"choose with flax-resnet convert FILE NEW.safetensors {options}, which the new file holds "
        f"({keyword} in Python)"
    )


@dataclass(frozen=True)
class _StateDict:
    path: tuple[str, ...]
    tensors: Mapping[str, Any]
    modules: Mapping[str, Any]


def find_weights(
    checkpoint: Any, key: str | None = None, source: str = "The checkpoint"
) -> FoundWeights:
    """Find the arrays of a ResNet in a checkpoint.

    Args:
        checkpoint: A mapping of names to arrays; or dicts, lists and whole models around such.
        key: Where the arrays are, if there are several ResNets: ``FoundWeights.key`` or its
            beginning, such as ``"state_dict_ema"``. By default it is the only one that is not a
            moving average of weights.
        source: What messages call the checkpoint.

    Raises:
        UserError: There are no arrays, or several ResNets; the message has their keys.
    """
    state_dicts = list(_state_dicts(checkpoint))
    if not state_dicts:
        raise UserError(_no_arrays(checkpoint, source))
    found: dict[str, tuple[_StateDict, FoundResNet]] = {}
    for held in state_dicts:
        for resnet in find_resnets(array_shapes(held.tensors)):
            where = ".".join([*held.path, resnet.prefix.rstrip(".")]).strip(".")
            if where in found:  # an entry "model" beside names that begin with "model."
                where += f" ({len(found)})"
            found[where] = held, resnet
    whole = {k: pair for k, pair in found.items() if _has_stem(pair[1])}
    found = whole or found
    averages = tuple(k for k in found if _AVERAGES.search(k))
    chosen = list(found)
    if key is not None:
        chosen = [k for k in found if f"{k}.".startswith(f"{key}.")]
        if not chosen:
            listed = f"the ResNets {', '.join(found)}" if found else "no ResNet"
            raise UserError(f"{source} has {listed}, and none under the key {key}.")
    if len(chosen) > 1:
        chosen = [k for k in chosen if k not in averages] or chosen
    if len(chosen) > 1:
        raise UserError(
            f"{source} holds {len(chosen)} ResNets, {', '.join(chosen)}: "
            f"{choose('--key KEY', 'key=')}."
        )
    if not chosen:  # arrays of another model, or of a part of a ResNet
        held = max(state_dicts, key=lambda held: len(held.tensors))
        names = {name: name for name in held.tensors if not name.endswith("num_batches_tracked")}
        return FoundWeights(".".join(held.path), held.tensors, FoundResNet("", names, ()))
    held, resnet = found[chosen[0]]
    return FoundWeights(
        key=chosen[0],
        tensors=held.tensors,
        resnet=resnet,
        averages=tuple(k for k in averages if k != chosen[0]),
        left=tuple(
            described
            for described in (
                *_grouped(resnet),
                *[f"{resnet.prefix}fc (a projection, no classifier)"] * resnet.is_projection,
                *_siblings(checkpoint, held.path),
            )
            if not any(_is_part(k, described.split()[0]) for k in averages)
        ),
        modules=held.modules,
    )


def _is_part(key: str, described: str) -> bool:
    """Return whether an entry or a prefix is that of a key."""
    return f"{key}.".startswith(f"{described}.") or f".{key}".endswith(f".{described}")


def _has_stem(resnet: FoundResNet) -> bool:
    return not resnet.names.keys().isdisjoint(("conv1.weight", "conv1.0.weight"))


def _state_dicts(
    value: Any, path: tuple[str, ...] = (), seen: set[int] | None = None
) -> Iterator[_StateDict]:
    """Yield every mapping of names to arrays, and every whole model, with the path to it."""
    seen = set() if seen is None else seen
    if len(path) > MOST_WRAPPERS or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Foreign):
        tensors, modules = module_arrays(value)
        if tensors:
            yield _StateDict(path, tensors, modules)
            return
    elif isinstance(value, Mapping) and not isinstance(value, dict):
        yield _StateDict(path, value, {})  # an open .npz or .safetensors file
        return
    elif isinstance(value, dict) and (arrays := _arrays_in(value)):
        yield _StateDict(path, arrays, {})
    for name, entry in _entries(value).items():
        yield from _state_dicts(entry, (*path, name), seen)


def _arrays_in(entries: Mapping[Any, Any]) -> dict[str, Any]:
    arrays = {}
    for name, value in entries.items():
        array = array_of(value) if isinstance(value, Foreign) else value
        if isinstance(name, str) and is_array(array):
            arrays[name] = array
    return arrays


def _entries(value: Any) -> dict[str, Any]:
    """Return what is in a container, or in an object that was not built, by name."""
    if isinstance(value, Foreign):
        state = value.state if isinstance(value.state, dict) else {}
        value = {**state, **(value.entries or {})}
    elif isinstance(value, list | tuple):
        value = dict(enumerate(value[:MOST_ITEMS]))
    return {str(name): entry for name, entry in value.items()} if isinstance(value, dict) else {}


def module_arrays(model: Foreign) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state dict of a pickled module, and ``FoundWeights.modules``.

    Modules of PyTorch have dicts of parameters, buffers and modules; those of TorchScript have all
    of them as attributes.

    Raises:
        UserError: There are too many modules: the file is made to fill the memory.
    """
    arrays: dict[str, Any] = {}
    modules: dict[str, Any] = {}
    count = 0
    waiting: list[tuple[str, Foreign]] = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        count += 1
        if count > MOST_MODULES or len(arrays) > MOST_MODULES or len(prefix) > MOST_LETTERS:
            raise UserError("The checkpoint has modules without end: it is made to do harm.")
        own, children = _members(module)
        if prefix.endswith("maxpool."):
            modules[prefix.rstrip(".")] = str(module)
        elif isinstance(module.state, dict) and "stride" in module.state:
            modules[prefix.rstrip(".")] = module.state["stride"]
        arrays |= {prefix + name: array for name, array in own.items()}
        waiting += [(f"{prefix}{name}.", child) for name, child in reversed(children.items())]
    return arrays, modules


def _members(module: Foreign) -> tuple[dict[str, Any], dict[str, Foreign]]:
    """Return a module's own arrays and its child modules."""
    state = module.state if isinstance(module.state, dict) else {}
    if isinstance(state.get("_modules"), dict):
        unsaved = state.get("_non_persistent_buffers_set")
        unsaved = unsaved if isinstance(unsaved, set) else set()
        parameters, buffers, children = (
            part if isinstance(part := state.get(name), dict) else {}
            for name in ("_parameters", "_buffers", "_modules")
        )
        own = _arrays_in(parameters) | {
            name: array for name, array in _arrays_in(buffers).items() if name not in unsaved
        }
    elif isinstance(module.kind, ForeignClass) and module.kind.module.startswith("__torch__"):
        own, children = _arrays_in(state), state
    else:
        return {}, {}
    modules = {
        name: child
        for name, child in children.items()
        if isinstance(name, str) and isinstance(child, Foreign)
    }
    return own, modules


def _grouped(resnet: FoundResNet) -> list[str]:
    """Describe the arrays of a state dict that are not the ResNet's, by module."""
    counts: dict[str, int] = {}
    prefix = resnet.prefix.split(".")
    for name in resnet.others:
        parts = name.split(".")
        shared = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(parts, prefix, strict=False)
        )
        module = ".".join(parts[: len(list(shared)) + 1])
        counts[module] = counts.get(module, 0) + 1
    return [f"{module} ({count} array{'s'[: count != 1]})" for module, count in counts.items()]


def _siblings(checkpoint: Any, path: tuple[str, ...]) -> list[str]:
    """Describe the entries of a checkpoint beside those on the path to the weights."""
    described = []
    for depth, taken in enumerate(path):
        entries = _entries(checkpoint)
        for name, value in entries.items():
            if name != taken:
                where = ".".join([*path[:depth], name])
                foreign = isinstance(value, Foreign | ForeignClass)
                described.append(f"{where} ({value}, not built)" if foreign else where)
        checkpoint = entries[taken]
    return described


def _no_arrays(checkpoint: Any, source: str) -> str:
    if isinstance(checkpoint, Foreign):
        if isinstance(checkpoint.kind, ForeignClass) and checkpoint.kind.module.startswith(
            "__torch__"
        ):
            return (
                f"{source} is a frozen TorchScript archive, whose arrays have no names: take the "
                "model before torch.jit.freeze, and save its state_dict()."
            )
        held = f"an object of {checkpoint}"
    else:
        names = list(_entries(checkpoint))
        held = f"the entries {', '.join(names[:8])}" if names else f"a {type(checkpoint).__name__}"
    return (
        f"{source} holds no state dict, a mapping of names to arrays, but {held}: save the "
        "state_dict() of the model."
    )
