"""How a run's arrays are partitioned over devices, and the train step compiled for that.

There is one mesh axis, ``"data"``. Batches are split along it; the state is replicated or, with
``shard_params``, its parameters and optimiser state are split too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..config import ParallelConfig
from ..errors import UserError
from .eval_step import Batch, Metrics
from .mesh import DATA_AXIS
from .state import TrainState
from .step import TrainStep


@dataclass(frozen=True)
class Partitioning:
    """How arrays are partitioned over devices, and how the step is compiled.

    Attributes:
        mesh: All devices along one axis, ``"data"``.
        mode: ``"jit"`` or ``"shard_map"``.
        batch_norm_groups: Number of groups of a batch that batch norm normalises separately
            ("ghost" batch norm).
        shard_params: Whether parameters, optimiser state and moving average are split over the
            devices.
    """

    mesh: Mesh
    mode: str = "jit"
    batch_norm_groups: int = 1
    shard_params: bool = False

    @property
    def num_devices(self) -> int:
        """Number of devices."""
        return self.mesh.devices.size

    @property
    def splits_no_custom_calls(self) -> bool:
        """Whether each device would compute custom calls for the whole batch."""
        return self.mode == "jit" and self.num_devices > 1

    @property
    def replicated_sharding(self) -> NamedSharding:
        """The sharding of arrays that every device holds in full."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """The sharding of arrays that are split along their first axis."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

    def state_shardings(self, state: TrainState) -> TrainState:
        """A sharding for every leaf of a state, or of its shapes.

        With ``shard_params``, parameters, optimiser state and the parameters' moving average are
        split along the largest axis that the number of devices divides, as in fully sharded data
        parallelism. Arrays without such an axis, and running statistics, are replicated.
        """

        def sharding_of(leaf: Any) -> NamedSharding:
            divisible = [size for size in leaf.shape if size % self.num_devices == 0]
            if not divisible or not self.shard_params:
                return self.replicated_sharding
            axis = leaf.shape.index(max(divisible))
            return NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, DATA_AXIS))

        shardings = jax.tree.map(lambda _: self.replicated_sharding, state)
        ema = state.ema
        if ema is not None:
            ema = shardings.ema | {"params": jax.tree.map(sharding_of, ema["params"])}
        return shardings.replace(  # type: ignore[attr-defined]
            params=jax.tree.map(sharding_of, state.params),
            opt_state=jax.tree.map(sharding_of, state.opt_state),
            ema=ema,
        )

    def put_state(self, state: TrainState) -> TrainState:
        """The state on the devices, partitioned."""
        return jax.device_put(_on_host(state), self.state_shardings(state))

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch on its devices: global arrays split along their rows."""
        return {
            name: jax.make_array_from_process_local_data(self.batch_sharding, value)
            for name, value in batch.items()
        }

    def map_images(self, function: Callable[[Any, jax.Array], jax.Array]) -> Callable[..., Any]:
        """A function of variables and images, which gives ``[N, ...]``, split over the devices.

        Under ``jit`` XLA does that.
        """
        if self.mode == "jit":
            return function
        split = PartitionSpec(DATA_AXIS)
        specs = PartitionSpec(), split
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=split)

    def replicate(self, tree: Any) -> Any:
        """The tree with every leaf on every device."""
        return jax.device_put(_on_host(tree), self.replicated_sharding)


def _on_host(tree: Any) -> Any:
    """The tree with this process's arrays as NumPy arrays, where several processes run.

    Put on the one device of each process they would else become arrays whose shards cannot be read,
    so that no checkpoint can be written (JAX 0.12.0).
    """
    if jax.process_count() == 1:
        return tree

    def fetched(leaf: Any) -> Any:
        is_local = isinstance(leaf, jax.Array) and leaf.is_fully_addressable
        return np.asarray(leaf) if is_local else leaf

    return jax.tree.map(fetched, tree)


def choose_partitioning(
    config: ParallelConfig,
    batch_size: int,
    microbatches: int,
    mesh: Mesh,
    uses_native: bool = False,
) -> Partitioning:
    """The partitioning that the settings ask for.

    Args:
        config: The settings.
        batch_size: Images of a batch, over all devices.
        microbatches: Microbatches of a batch.
        mesh: The devices.
        uses_native: Whether the model computes by custom calls, those of ``flax-resnet-onednn``.

    Raises:
        UserError: The batch does not divide, or the settings contradict each other.
    """
    devices = mesh.devices.size
    unit = devices * microbatches
    if batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        cut = f" in {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"Batch size {batch_size} does not divide among {devices} devices{cut}: "
            f"use --data.batch-size {nearest}."
        )
    groups = {"global": 1, "per_device": devices}.get(config.batch_norm)
    if groups is None:
        groups = int(config.batch_norm.removeprefix("groups:"))  # check_config has checked it
    if batch_size // microbatches % groups:
        raise UserError(
            f"--parallel.batch-norm {config.batch_norm} does not cut {batch_size // microbatches} "
            "images into equal groups: use a number that does."
        )
    fits_devices = groups % devices == 0 or devices % groups == 0
    mode: str = config.mode
    if mode == "auto":
        # jit could compute statistics in groups too, but only shard_map guarantees that each device
        # computes its own without communication. And jit cannot split custom calls: with them each
        # device would compute the whole batch.
        is_better = devices > 1 and (groups > 1 or uses_native)
        mode = "shard_map" if is_better and fits_devices and not config.shard_params else "jit"
    if mode == "shard_map":
        if config.shard_params:
            raise UserError(
                f"--parallel.shard-params needs --parallel.mode jit, not {mode}.", exit_code=2
            )
        if not fits_devices:
            raise UserError(
                f"--parallel.batch-norm {config.batch_norm} does not fit {devices} devices under "
                f"{mode}: one must divide the other, or use --parallel.mode jit."
            )
    return Partitioning(mesh, mode, groups, config.shard_params)


def compile_step(
    step: TrainStep, partitioning: Partitioning, state: Any, sums: Metrics, batch: Any
) -> jax.stages.Compiled:
    """Compile ``(state, sums, batch) -> (state, sums)``; state and sums are donated."""
    return lower_step(step, partitioning, state, sums, batch).compile()


def lower_step(
    step: TrainStep, partitioning: Partitioning, state: Any, sums: Metrics, batch: Any
) -> jax.stages.Lowered:
    """Lower the step for arrays, or for shapes with shardings."""
    axis_name = None if partitioning.mode == "jit" else DATA_AXIS

    def update(state: TrainState, sums: Metrics, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step(state, batch, axis_name)
        return state, jax.tree.map(jnp.add, sums, metrics)

    function: Any = update
    if partitioning.mode == "shard_map":
        replicated = PartitionSpec()
        groups_span_devices = 1 < partitioning.batch_norm_groups < partitioning.num_devices
        function = jax.shard_map(
            update,
            mesh=partitioning.mesh,
            in_specs=(replicated, replicated, PartitionSpec(DATA_AXIS)),
            out_specs=replicated,
            # check_vma does not support axis_index_groups.
            check_vma=not groups_span_devices,
        )
    # Otherwise XLA may choose other shardings for the new state, and cannot reuse the donated one.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, sums))
    jitted = jax.jit(function, donate_argnums=(0, 1), out_shardings=shardings)
    return jitted.lower(state, sums, batch)
