"""Values of the devices of a mapped axis, inside ``shard_map`` and ``pmap``."""

from typing import Any

import jax
from jax import lax

from ..models.lowerings import varying_axes


def global_sum(tree: Any, axis_name: str | None) -> Any:
    """The sum of each leaf over the devices of an axis; the leaves themselves without one."""
    return tree if axis_name is None else lax.psum(tree, axis_name)


def as_varying(tree: Any, axis_name: str) -> Any:
    """The tree with the type of values that differ between devices, as ``shard_map`` checks it."""

    def mark(leaf: jax.Array) -> jax.Array:
        if axis_name in varying_axes(leaf):
            return leaf
        return lax.pcast(leaf, axis_name, to="varying")

    return jax.tree.map(mark, tree)
