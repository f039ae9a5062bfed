"""The mesh of devices, and the rows of a batch that each process makes."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ..data import Shard

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """A mesh of all devices of all processes along one axis, ``"data"``, process after process."""
    # In this order each process's devices take neighbouring rows of a batch: its shard.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def local_shard() -> Shard:
    """The rows of every batch that this process makes."""
    return Shard(jax.process_index(), jax.process_count())
