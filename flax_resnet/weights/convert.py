"""torchvision state dicts to Flax variables and back: strict, both ways, without PyTorch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ..errors import UserError
from ..models import QUICK_COMPILATION
from .infer import infer_model
from .layouts import torchvision_names, unwrap
from .names import COUNTER, Leaf, as_numpy, fresh_variables, input_channels, torch_leaves

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IncompatibleKeys:
    """What did not fit, by torchvision names.

    Attributes:
      missing: arrays of the model that the state dict lacks; the variables hold fresh ones.
      unexpected: arrays of the state dict that the model lacks.
      mismatched: what is wrong with the arrays that both have; the variables hold fresh ones.
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
    state_dict: Mapping[str, Any],
    model: nn.Module,
    *,
    strict: Literal[True] = True,
    head: Literal["keep", "drop"] = "keep",
    key: jax.Array | None = None,
) -> dict[str, Any]: ...


@overload
def from_torchvision(
    state_dict: Mapping[str, Any],
    model: nn.Module,
    *,
    strict: Literal[False],
    head: Literal["keep", "drop"] = "keep",
    key: jax.Array | None = None,
) -> tuple[dict[str, Any], IncompatibleKeys]: ...


def from_torchvision(
    state_dict: Mapping[str, Any],
    model: nn.Module,
    *,
    strict: bool = True,
    head: Literal["keep", "drop"] = "keep",
    key: jax.Array | None = None,
) -> dict[str, Any] | tuple[dict[str, Any], IncompatibleKeys]:
    """A torch state dict as the variables ``{"params", "batch_stats"}`` of ``model``.

    Arrays are cast to the model's ``param_dtype``; float32 into float32 is exact to the bit. The
    names may carry ``module.`` or ``model.``, be wrapped in ``{"state_dict": ...}``, and be those
    of the layouts in ``layouts.py``.

    Args:
      state_dict: name to array, NumPy, JAX or torch, in torch's order: kernels
        ``[out, in / groups, H, W]``, the classifier ``[num_classes, features]``.
      model: any model of flax_resnet.
      strict: every array must be there, fit, and be used; False fills what does not fit with
        fresh values, and tells it.
      head: ``"drop"`` keeps a fresh classifier ``fc``, whatever the state dict has.
      key: PRNG key of the fresh values; by default ``jax.random.key(0)``.

    Returns:
      The variables, and with ``strict=False`` also the :class:`IncompatibleKeys`.

    Raises:
      UserError: strict, and something is missing, unexpected or of another shape: all of it is
        listed, and the model it looks like is named.
    """
    tensors = unwrap(state_dict)
    names = torchvision_names(tensors)
    channels = 3
    if (first := names.get("conv1.weight") or names.get("conv1.0.weight")) is not None:
        conv1 = tensors[first]
        channels = input_channels(conv1) if len(conv1.shape) == 4 else 3
    leaves = torch_leaves(model, channels)
    if head == "drop":
        names = {name: original for name, original in names.items() if not _of_head(name)}

    converted, mismatched = {}, []
    for name, leaf in leaves.items():
        if name in names:
            array = as_numpy(tensors[names[name]])
            if problem := _problem(array, leaf):
                mismatched.append(f"{name} {problem}")
            else:
                converted[leaf.path] = jax.device_put(leaf.from_torch(array))
    dropped = [name for name in leaves if head == "drop" and _of_head(name)]
    incompatible = IncompatibleKeys(
        missing=tuple(name for name in leaves if name not in names and name not in dropped),
        unexpected=tuple(original for name, original in names.items() if name not in leaves),
        mismatched=tuple(mismatched),
    )
    if strict and incompatible:
        raise UserError(
            f"These weights do not fit the model: {_advice(tensors, names, incompatible)}. "
            f"{incompatible}."
        )
    if dropped:
        logger.warning("fc is fresh: %d classes", leaves[dropped[-1]].shape[0])
    variables = _filled(model, leaves, converted, channels, key)
    return variables if strict else (variables, incompatible)


def to_torchvision(variables: Mapping[str, Any], model: nn.Module) -> dict[str, np.ndarray]:
    """The variables of ``model`` as a state dict that loads strictly into torchvision's twin.

    The arrays are contiguous copies of the same dtype (``torch.from_numpy`` takes them).
    ``num_batches_tracked``, which torch's batch norm does not use with a fixed momentum, is 0.

    Args:
      variables: ``{"params", "batch_stats"}`` as ``model.init`` gives; other collections are left.
      model: the model they belong to.

    Raises:
      UserError: the variables are not this model's; all that is wrong is listed.
    """
    held = traverse_util.flatten_dict(
        {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    )
    first = held.get(("params", "conv1", "kernel"), held.get(("params", "conv1_0", "kernel")))
    leaves = torch_leaves(model, 3 if first is None else first.shape[2])
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
    state_dict = {}
    for name, leaf in leaves.items():
        state_dict[name] = leaf.to_torch(np.asarray(held[leaf.path]))
        module, _, kind = name.rpartition(".")
        if kind == "running_var":
            state_dict[f"{module}.{COUNTER}"] = np.zeros((), np.int64)
    return state_dict


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


def _advice(
    tensors: Mapping[str, Any], names: Mapping[str, str], incompatible: IncompatibleKeys
) -> str:
    wrong = (*incompatible.missing, *incompatible.unexpected, *incompatible.mismatched)
    if all(_of_head(name) for name in wrong):
        return "only the classifier differs, head='drop' starts with a fresh one"
    try:
        inferred = infer_model({name: tensors[names[name]].shape for name in names})
    except UserError as error:
        return str(error).rstrip(".")
    return f"they look like those of {inferred}"


def _filled(
    model: nn.Module,
    leaves: Mapping[str, Leaf],
    converted: dict[tuple[str, ...], jax.Array],
    channels: int,
    key: jax.Array | None,
) -> dict[str, Any]:
    """The converted arrays as variables, with fresh ones where there is none."""
    missing = [leaf.path for leaf in leaves.values() if leaf.path not in converted]
    if missing:
        # XLA drops all but the arrays asked for.
        @partial(jax.jit, compiler_options=QUICK_COMPILATION)
        def fresh(key: jax.Array) -> list[jax.Array]:
            flat = traverse_util.flatten_dict(fresh_variables(model, key, channels))
            return [flat[path] for path in missing]

        made = fresh(jax.random.key(0) if key is None else key)
        converted = converted | dict(zip(missing, made, strict=True))
    # In the model's own order, so that trees compare equal.
    ordered = {leaf.path: converted[leaf.path] for leaf in leaves.values()}
    return traverse_util.unflatten_dict(ordered)
