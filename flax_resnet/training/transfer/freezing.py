"""Which parameters train: the partition of a tree into those that do and those that do not."""

from collections.abc import Callable
from typing import Any

from flax import traverse_util

Path = tuple[str, ...]
Trainable = Callable[[Path], bool]


def partition(params: Any, trainable: Trainable | None) -> tuple[Any, Any]:
    """``params`` as two trees: those at whose path ``trainable`` is true, and the others.

    ``merge`` puts them together again. With None all of them train.
    """
    if trainable is None:
        return params, {}
    parts: tuple[dict[Path, Any], dict[Path, Any]] = ({}, {})
    for path, leaf in traverse_util.flatten_dict(params).items():
        parts[0 if trainable(path) else 1][path] = leaf
    trained, frozen = map(traverse_util.unflatten_dict, parts)
    return trained, frozen


def merge(trained: Any, frozen: Any) -> Any:
    """The tree that ``partition`` took apart."""
    if not frozen:
        return trained
    leaves = traverse_util.flatten_dict(frozen) | traverse_util.flatten_dict(trained)
    return traverse_util.unflatten_dict(leaves)
