"""Layouts of state dicts in files: wrappers, prefixes and other names, mapped to torchvision's."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import UserError
from .names import COUNTER
from .timm import from_v2_names, is_v2
from .transformers import is_transformers, torchvision_name

# Where checkpoints keep the weights, in the order they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "net", "params")

MOST_WRAPPERS = 4  # one in another; a hostile file can hold a dict that is inside itself

# Prefixes that wrappers of a module add to every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "resnet.")

# Prefixes of a ResNet inside a larger model; the other arrays are ignored.
BACKBONE_PREFIXES = {
    "encoder_q.": "MoCo v1, v2",  # He et al. 2020; encoder_k is its moving average
    "base_encoder.": "MoCo v3",
    "backbone.body.": "torchvision's detectors",
    "backbone.": "DINO, Lightning",
    "encoder.": "SimSiam",
}

FIRST = ("conv1.weight", "conv1.0.weight")  # the first convolution; deep stems have three

# Names of other projects for the same arrays, as pattern and torchvision's name.
RENAMES = (
    # akamaster/pytorch_resnet_cifar10 and kuangliu/pytorch-cifar
    (r"^linear\.", "fc."),
    (r"\.shortcut\.", ".downsample."),
)


def unwrap(checkpoint: Any, source: str = "The checkpoint") -> Mapping[str, Any]:
    """Return the mapping of names to arrays inside a checkpoint, or that is the checkpoint.

    Raises:
        UserError: There is no such mapping.
    """
    if isinstance(checkpoint, Mapping) and not isinstance(checkpoint, dict):
        return checkpoint  # an open .npz or .safetensors file: arrays only, read on lookup
    seen: list[str] = []
    for _ in range(MOST_WRAPPERS):
        if not isinstance(checkpoint, dict):
            break
        if any(_is_array(value) for value in checkpoint.values()):
            return {name: value for name, value in checkpoint.items() if _is_array(value)}
        seen = [str(name) for name in checkpoint]
        key = next((key for key in WRAPPERS if isinstance(checkpoint.get(key), dict)), None)
        if key is None:
            break
        checkpoint = checkpoint[key]
    held = f"the entries {', '.join(seen[:8])}" if seen else f"a {type(checkpoint).__name__}"
    raise UserError(
        f"{source} holds no state dict, a mapping of names to arrays, but {held}: save the "
        "state_dict() of the model."
    )


def torchvision_names(names: Iterable[str]) -> dict[str, str]:
    """Map torchvision's names to those among ``names``, without batch norm's counters.

    Example: ``module.linear.weight`` among the names gives ``{"fc.weight":
    "module.linear.weight", ...}``.
    """
    found = {name: name for name in names if name.rpartition(".")[2] != COUNTER}
    while found and (prefix := _prefix(found)):
        found = {
            name.removeprefix(prefix): original
            for name, original in found.items()
            if name.startswith(prefix)
        }
    if is_transformers(found):
        return {torchvision_name(name): original for name, original in found.items()}
    if is_v2(found):
        return from_v2_names(found)
    for pattern, replacement in RENAMES:
        found = {re.sub(pattern, replacement, name): original for name, original in found.items()}
    return found


def _prefix(names: Iterable[str]) -> str | None:
    """Return a prefix to remove, or None."""
    names = list(names)
    for prefix in WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in names):
            return prefix
    for prefix in BACKBONE_PREFIXES:
        if any(prefix + first in names for first in FIRST):
            return prefix
    return None


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")
