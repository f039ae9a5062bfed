"""Conversion between torchvision's state dicts and Flax variables, strict, without PyTorch."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ..errors import UserError
from ..models import QUICK_COMPILATION, ResNet
from .find import FoundWeights, find_weights
from .formats.torch_tensors import release_pages
from .infer import infer_model
from .input_channels import kernel_channels
from .names import (
    COUNTER,
    Leaf,
    as_numpy,
    first_of_head,
    fresh_variables,
    head_inputs,
    torch_leaves,
)
from .timm import v2_name
from .transformers import transformers_config, transformers_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IncompatibleKeys:
    """Names, in torchvision, of arrays that a state dict and a model do not share.

    Attributes:
        missing: Arrays of the model that the state dict lacks; the variables hold random ones.
        unexpected: Arrays of the state dict that the model lacks.
        mismatched: Arrays that both have in another shape or dtype, with the difference; the
            variables hold random ones.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "not fitting": self.mismatched,
        }
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names
        )


@overload
def from_torchvision(
    state_dict: Mapping[str, Any] | FoundWeights,
    model: ResNet,
    *,
    strict: Literal[True] = True,
    head: Literal["keep", "drop"] = "keep",
    key: jax.Array | None = None,
) -> dict[str, Any]: ...


@overload
def from_torchvision(
    state_dict: Mapping[str, Any] | FoundWeights,
    model: ResNet,
    *,
    strict: Literal[False],
    head: Literal["keep", "drop"] = "keep",
    key: jax.Array | None = None,
) -> tuple[dict[str, Any], IncompatibleKeys]: ...


def from_torchvision(
    state_dict: Mapping[str, Any] | FoundWeights,
    model: ResNet,
    *,
    strict: bool = True,
    head: Literal["keep", "drop"] = "keep",
    key: jax.Array | None = None,
) -> dict[str, Any] | tuple[dict[str, Any], IncompatibleKeys]:
    """Convert a PyTorch state dict to the variables ``{"params", "batch_stats"}`` of ``model``.

    Arrays are cast to the model's ``param_dtype``; float32 to float32 keeps every bit. The ResNet
    may be in a checkpoint or a larger model, and have the names of other projects, see
    ``layouts.py``.

    Args:
        state_dict: Arrays of NumPy, JAX or PyTorch by name, in PyTorch's layout: kernels
            ``[out, in / groups, H, W]``, the classifier ``[num_classes, features]``.
        model: Any model of flax_resnet.
        strict: Whether every array must exist, fit and be used. False fills what does not fit with
            random values and returns the names.
        head: ``"drop"`` creates a random classifier ``fc`` and ignores that of the state dict.
        key: PRNG key of the random values; by default ``jax.random.key(0)``.

    Returns:
        The variables, and with ``strict=False`` also the ``IncompatibleKeys``.

    Raises:
        UserError: An array holds NaN or infinity. Or strict, and something is missing, unexpected
            or of another shape: all of it is listed, and the model it looks like is named.
    """
    weights = state_dict if isinstance(state_dict, FoundWeights) else find_weights(state_dict)
    names = dict(weights.names)
    if head == "drop":
        names = {name: original for name, original in names.items() if not _of_head(name)}
    shapes = weights.shapes()
    channels = model.in_channels or kernel_channels(shapes)
    # Also of a head that is dropped, so that a fresh one is for images of the same size.
    inputs = head_inputs(model, shapes.get("fc.0.weight" if model.hidden else "fc.weight", ()))
    leaves = torch_leaves(model, channels, inputs)

    converted, mismatched, broken = {}, [], []
    for name, leaf in leaves.items():
        if name in names:
            array = as_numpy(weights.tensors[names[name]])
            if array.ndim == 4 and array.shape[2:] == (1, 1) and len(leaf.shape) == 2:
                array = array[..., 0, 0]  # a classifier that is a 1x1 convolution
            if problem := _problem(array, leaf):
                mismatched.append(f"{name} {problem}")
            elif not np.isfinite(array).all():
                broken.append(names[name])
            else:
                converted[leaf.path] = leaf.from_torch(array)
                release_pages(array)
    _refuse_broken(broken)
    dropped = [name for name in leaves if head == "drop" and _of_head(name)]
    incompatible = IncompatibleKeys(
        missing=tuple(name for name in leaves if name not in names and name not in dropped),
        unexpected=tuple(original for name, original in names.items() if name not in leaves),
        mismatched=tuple(mismatched),
    )
    if strict and incompatible:
        raise UserError(
            f"These weights do not fit the model: {_advice(weights, names, incompatible)}. "
            f"{incompatible}."
        )
    if dropped:
        logger.warning("fc is fresh: %d classes", leaves[dropped[-1]].shape[0])
    initialise = partial(fresh_variables, model, channels=channels, inputs=inputs)
    variables = _filled(leaves, converted, initialise, key)
    return variables if strict else (variables, incompatible)


def to_torchvision(variables: Mapping[str, Any], model: ResNet) -> dict[str, np.ndarray]:
    """Convert variables to a state dict that torchvision's model of the same name loads.

    The arrays are contiguous copies of the same dtype, as ``torch.from_numpy`` needs them.
    ``num_batches_tracked``, which PyTorch's batch norm ignores at a fixed momentum, is 0.

    Args:
        variables: ``{"params", "batch_stats"}``; other collections are ignored.
        model: The model they belong to.

    Raises:
        UserError: The variables are not this model's; all that is wrong is listed. Or an array
            holds NaN or infinity.
    """
    held = traverse_util.flatten_dict(
        {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    )
    first = held.get(("params", "conv1", "kernel"), held.get(("params", "conv1_0", "kernel")))
    head = held.get(("params", first_of_head(model), "kernel"))
    leaves = torch_leaves(
        model,
        model.in_channels or (3 if first is None else first.shape[2]),
        None if head is None else head_inputs(model, head.shape[::-1]),
    )
    paths = {leaf.path for leaf in leaves.values()}
    incompatible = IncompatibleKeys(
        missing=tuple("/".join(path) for path in sorted(paths - held.keys())),
        unexpected=tuple("/".join(path) for path in sorted(held.keys() - paths)),
        mismatched=tuple(
            f"{'/'.join(leaf.path)} is {list(held[leaf.path].shape)}, not {list(leaf.shape)}"
            for leaf in leaves.values()
            if leaf.path in held and held[leaf.path].shape != leaf.shape
        ),
    )
    if incompatible:
        raise UserError(f"These variables are not of this model ({incompatible}).")
    arrays = {name: np.asarray(held[leaf.path]) for name, leaf in leaves.items()}
    _refuse_broken([name for name, array in arrays.items() if not np.isfinite(array).all()])
    state_dict = {}
    for name, leaf in leaves.items():
        state_dict[name] = leaf.to_torch(arrays[name])
        module, _, kind = name.rpartition(".")
        if kind == "running_var":
            state_dict[f"{module}.{COUNTER}"] = np.zeros((), np.int64)
    return state_dict


def to_timm(variables: Mapping[str, Any], model: ResNet) -> dict[str, np.ndarray]:
    """Convert variables to a state dict that timm's model of the same name loads.

    The arrays are those of ``to_torchvision``; those of pre-activation models have other names.

    Args:
        variables: ``{"params", "batch_stats"}``; other collections are ignored.
        model: The model they belong to.

    Raises:
        UserError: The variables are not this model's; all that is wrong is listed. Or an array
            holds NaN or infinity.
    """
    state_dict = to_torchvision(variables, model)
    if model.version != "v2":
        return state_dict
    renamed = {v2_name(name): array for name, array in state_dict.items()}
    # timm's classifier is a 1x1 convolution there.
    renamed["head.fc.weight"] = renamed["head.fc.weight"][..., np.newaxis, np.newaxis]
    return renamed


def to_transformers(variables: Mapping[str, Any], model: ResNet) -> dict[str, np.ndarray]:
    """Convert variables to a state dict of transformers' ``ResNetForImageClassification``.

    The arrays are those of ``to_torchvision``, under the other names.

    Args:
        variables: ``{"params", "batch_stats"}``; other collections are ignored.
        model: The model they belong to.

    Raises:
        UserError: transformers has no such model (groups, another stem, pre-activation, ...), or
            the variables are not this model's.
    """
    transformers_config(model)  # refuses
    state_dict = to_torchvision(variables, model)
    return {transformers_name(name): array for name, array in state_dict.items()}


def _refuse_broken(names: Sequence[str]) -> None:
    """Raise an error where there are names: those of arrays that hold NaN or infinity."""
    if names:
        others = f" and {len(names) - 5} other arrays" if len(names) > 5 else ""
        raise UserError(
            f"These weights hold NaN or infinity, as after training that diverged, in "
            f"{', '.join(names[:5])}{others}: use an earlier checkpoint, or copy the file again."
        )


def _problem(array: np.ndarray, leaf: Leaf) -> str:
    if array.shape != leaf.torch_shape:
        return f"is {list(array.shape)}, not {list(leaf.torch_shape)}"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"is of {array.dtype}, not of floating point"
    narrower = jnp.finfo(array.dtype).max > jnp.finfo(leaf.dtype).max
    if narrower and np.any(np.abs(array[np.isfinite(array)]) > float(jnp.finfo(leaf.dtype).max)):
        return f"holds {array.dtype} values beyond {leaf.dtype}"
    return ""


def _of_head(name: str) -> bool:
    return name.startswith("fc.")  # also the layers of a projection head, fc.0, fc.2


def _advice(weights: FoundWeights, names: Mapping[str, str], incompatible: IncompatibleKeys) -> str:
    wrong = (*incompatible.missing, *incompatible.unexpected, *incompatible.mismatched)
    if all(_of_head(name) for name in wrong):
        if weights.resnet.head_problem:
            return f"the file {weights.resnet.head_problem}; head='drop' starts with a fresh one"
        return "only the classifier differs, head='drop' starts with a fresh one"
    try:
        shapes = weights.shapes()
        inferred = infer_model({name: shapes[name] for name in names})
    except UserError as error:
        return str(error).rstrip(".")
    return f"they look like those of {inferred}"


def _filled(
    leaves: Mapping[str, Leaf],
    converted: dict[tuple[str, ...], jax.Array],
    initialise: Callable[[jax.Array], dict[str, Any]],
    key: jax.Array | None,
) -> dict[str, Any]:
    """Return the converted arrays as variables, with random values for missing ones."""
    missing = [leaf.path for leaf in leaves.values() if leaf.path not in converted]
    if missing:
        # XLA computes the returned arrays only.
        @partial(jax.jit, compiler_options=QUICK_COMPILATION)
        def fresh(key: jax.Array) -> list[jax.Array]:
            flat = traverse_util.flatten_dict(initialise(key))
            return [flat[path] for path in missing]

        made = fresh(jax.random.key(0) if key is None else key)
        converted = converted | dict(zip(missing, made, strict=True))
    # In the model's own order, so that trees compare equal.
    ordered = {leaf.path: converted[leaf.path] for leaf in leaves.values()}
    return traverse_util.unflatten_dict(ordered)
