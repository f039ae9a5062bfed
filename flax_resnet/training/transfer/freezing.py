"""Partition of a parameter tree into trained and frozen parameters."""

from collections.abc import Callable
from typing import Any

from flax import traverse_util

Path = tuple[str, ...]
Trainable = Callable[[Path], bool]


def partition(params: Any, trainable: Trainable | None) -> tuple[Any, Any]:
    """Split parameters into two trees, the trained and the frozen ones; ``merge`` joins them.

    Args:
        params: A nested dict of arrays.
        trainable: Whether the parameter at a path trains; None trains all.
    """
    if trainable is None:
        return params, {}
    flat = traverse_util.flatten_dict(params)
    trained = {path: leaf for path, leaf in flat.items() if trainable(path)}
    frozen = {path: leaf for path, leaf in flat.items() if path not in trained}
    return traverse_util.unflatten_dict(trained), traverse_util.unflatten_dict(frozen)


def merge(trained: Any, frozen: Any) -> Any:
    """Join the two trees that ``partition`` returned."""
    if not frozen:
        return trained
    leaves = traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(leaves)
