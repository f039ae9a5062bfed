"""Devices: one mesh axis over which batches are split and the state is replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..data import Shard

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, ``"data"``, process after process."""
    # In this order each process's devices take neighbouring rows of a batch, its Shard.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def local_shard() -> Shard:
    """The part of every batch that this process makes."""
    return Shard(jax.process_index(), jax.process_count())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree with every leaf whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch, put on its devices: global arrays split along their first
    axis."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
