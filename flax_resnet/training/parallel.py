"""How a run lies on its devices, and the train step compiled for that: jit, shard_map or pmap.

The state that the loop, evaluation and checkpoints see is the same under all three: each leaf is
one global array, whole on every device or, with ``shard_params``, spread over them.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..config import ParallelConfig
from ..errors import UserError
from .mesh import DATA_AXIS, shard_batch
from .state import StepOptions, TrainState
from .step import Batch, Metrics, train_step

Advance = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Partitioning:
    """Where the parts of a run are, and which road its step takes.

    Attributes:
      mesh: all devices along one axis, ``"data"``.
      mode: ``"jit"``, ``"shard_map"`` or ``"pmap"``.
      batch_norm_groups: parts of a batch with batch-norm statistics of their own.
      shard_params: parameters, optimiser state and moving average are spread over the devices.
    """

    mesh: Mesh
    mode: str = "jit"
    batch_norm_groups: int = 1
    shard_params: bool = False

    @property
    def devices(self) -> int:
        return self.mesh.devices.size

    @property
    def whole(self) -> NamedSharding:
        """On every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """Split over the devices along the first axis."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))


def choose_partitioning(
    config: ParallelConfig, batch_size: int, microbatches: int, mesh: Mesh
) -> Partitioning:
    """The partitioning that the settings ask for.

    Raises:
      UserError: the batch does not divide, or the settings do not go together.
    """
    devices = mesh.devices.size
    unit = devices * microbatches
    if batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        parts = f" in {microbatches} microbatches" if microbatches > 1 else ""
        raise UserError(
            f"Batch size {batch_size} does not divide among {devices} devices{parts}: "
            f"use --data.batch-size {nearest}."
        )
    groups = {"global": 1, "per_device": devices}.get(config.batch_norm)
    if groups is None:
        groups = int(config.batch_norm.removeprefix("groups:"))  # check_config has seen to it
    if batch_size // microbatches % groups:
        raise UserError(
            f"--parallel.batch-norm {config.batch_norm} does not cut {batch_size // microbatches} "
            "images into equal parts: use a number that does."
        )
    mode = config.mode
    # The partitioner can compute statistics in groups too, but shard_map leaves it no choice.
    if mode == "auto":
        apart = groups > 1 and (groups % devices == 0 or devices % groups == 0)
        mode = "shard_map" if apart and devices > 1 and not config.shard_params else "jit"
    if mode != "jit":
        if config.shard_params:
            raise UserError(
                f"--parallel.shard-params needs --parallel.mode jit, not {mode}.", exit_code=2
            )
        if groups % devices and devices % groups:
            raise UserError(
                f"--parallel.batch-norm {config.batch_norm} does not fit {devices} devices under "
                f"{mode}: one must divide the other, or use --parallel.mode jit."
            )
    if mode == "pmap" and jax.process_count() > 1:
        raise UserError("--parallel.mode pmap is for one process: use jit or shard_map.")
    return Partitioning(mesh, mode, groups, config.shard_params)


def state_shardings(state: TrainState, partitioning: Partitioning) -> TrainState:
    """A sharding for every leaf of the state (or of its shapes).

    With ``shard_params`` each parameter, and what the optimiser and the moving average hold of its
    shape, is split along its largest axis that divides among the devices; what has none, such as
    scalars, and the running statistics are whole everywhere.
    """

    def spread(leaf: Any) -> NamedSharding:
        fitting = [size for size in leaf.shape if size % partitioning.devices == 0]
        if not fitting or not partitioning.shard_params:
            return partitioning.whole
        axis = leaf.shape.index(max(fitting))
        return NamedSharding(partitioning.mesh, PartitionSpec(*(None,) * axis, DATA_AXIS))

    shardings = jax.tree.map(lambda _: partitioning.whole, state)
    ema = state.ema
    if ema is not None:
        ema = shardings.ema | {"params": jax.tree.map(spread, ema["params"])}
    return shardings.replace(  # type: ignore[attr-defined]
        params=jax.tree.map(spread, state.params),
        opt_state=jax.tree.map(spread, state.opt_state),
        ema=ema,
    )


def configure(
    model: nn.Module, options: StepOptions, partitioning: Partitioning, microbatches: int
) -> tuple[nn.Module, StepOptions]:
    """The model and the step options that the partitioning asks for."""
    if partitioning.batch_norm_groups > 1:
        model = model.clone(batch_norm_groups=partitioning.batch_norm_groups)
    gathered = partitioning.whole if partitioning.shard_params else None
    return model, dataclasses.replace(options, microbatches=microbatches, gathered=gathered)


def place_state(state: TrainState, partitioning: Partitioning) -> TrainState:
    """The state on the devices, as the partitioning has it."""
    return jax.device_put(state, state_shardings(state, partitioning))


def place_batch(batch: dict[str, np.ndarray], partitioning: Partitioning) -> dict[str, jax.Array]:
    """This process's part of a batch on its devices, in the form that ``compile_step`` takes."""
    if partitioning.mode == "pmap":
        count = partitioning.devices
        batch = {k: v.reshape(count, -1, *v.shape[1:]) for k, v in batch.items()}
    return shard_batch(batch, partitioning.mesh)


def enter(tree: Any, partitioning: Partitioning) -> Any:
    """From whole arrays to the form that ``compile_step`` takes: pmap wants a copy for each
    device along a first axis."""
    return tree if partitioning.mode != "pmap" else _pmap_forms(partitioning)[0](tree)


def leave(tree: Any, partitioning: Partitioning) -> Any:
    """The way back from ``enter``."""
    return tree if partitioning.mode != "pmap" else _pmap_forms(partitioning)[1](tree)


@functools.cache  # at every log point: compiled once
def _pmap_forms(partitioning: Partitioning) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    def stack(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (partitioning.devices, *x.shape)), tree)

    def first(tree: Any) -> Any:
        return jax.tree.map(lambda x: x[0], tree)

    return jax.jit(stack, out_shardings=partitioning.rows), jax.jit(
        first, out_shardings=partitioning.whole
    )


def compile_step(partitioning: Partitioning, state: Any, sums: Metrics, batch: Any) -> Any:
    """``(state, sums, batch) -> (state, sums)``, compiled; state and sums are donated."""
    if partitioning.mode == "pmap":
        mapped = jax.pmap(
            _advance(DATA_AXIS),
            DATA_AXIS,
            devices=list(partitioning.mesh.devices.flat),
            donate_argnums=(0, 1),
        )
        return mapped
    return lower_step(partitioning, state, sums, batch).compile()


def lower_step(
    partitioning: Partitioning, state: Any, sums: Metrics, batch: Any
) -> jax.stages.Lowered:
    """The step under jit or shard_map, lowered for arrays or shapes with shardings."""
    step = _advance(None if partitioning.mode == "jit" else DATA_AXIS)
    if partitioning.mode == "shard_map":
        whole = PartitionSpec()
        spans = 1 < partitioning.batch_norm_groups < partitioning.devices
        step = jax.shard_map(
            step,
            mesh=partitioning.mesh,
            in_specs=(whole, whole, PartitionSpec(DATA_AXIS)),
            out_specs=whole,
            check_vma=not spans,  # it does not know collectives among some of the devices
        )
    # Out as in: otherwise the compiler may lay the new state out differently from the donated one.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, (state, sums))
    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=shardings)
    return jitted.lower(state, sums, batch)


def _advance(axis_name: str | None) -> Advance:
    def advance(state: TrainState, sums: Metrics, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = train_step(state, batch, axis_name)
        return state, jax.tree.map(jnp.add, sums, metrics)

    return advance
