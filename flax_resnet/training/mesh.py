"""Devices: one mesh axis over which batches are split and the state is replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..errors import UserError

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, ``"data"``."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError unless the global batch divides evenly among the devices."""
    devices = mesh.devices.size
    if batch_size % devices:
        nearest = max(devices, round(batch_size / devices) * devices)
        raise UserError(
            f"Batch size {batch_size} does not divide among {devices} devices: "
            f"use --data.batch-size {nearest}."
        )


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree with every leaf whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch as arrays split along their first axis; each process places its own share."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))

    def place(value: np.ndarray) -> jax.Array:
        # Every process holds the whole batch in the same order, and cuts out what its devices need.
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return {name: place(value) for name, value in batch.items()}
