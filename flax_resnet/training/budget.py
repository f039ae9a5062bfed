"""Memory, communication and scaling of a run, printed by ``--dry-run``.

Sizes come from shapes and shardings, memory and collectives from the compiled step, and the speed
of a device from the settings or from a few steps (``--calibrate``).
"""

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from rich.console import Console
from rich.table import Table

from ..models import ModelSummary, stage_of, summarize
from .communication import collectives_of
from .partitioning import lower_step
from .run import Run
from .state import TrainState
from .step import zero_step_metrics
from .transfer.freezing import partition

DEVICES = (1, 8, 64, 512, 4096)
LATENCY = 1e-5  # seconds of each of the log2(devices) stages of a collective; assumed
WARM_UP = 2  # steps that are not timed
BACKWARD = 2 / 3  # fraction of a step's arithmetic that can hide communication, if all trains


@dataclass(frozen=True)
class Scaling:
    """A simulated step on a number of devices, each with the same number of images.

    Attributes:
        devices: How many there are.
        seconds: Time of the step with none of the communication hidden.
        least: Fraction of the step that is arithmetic, with none of the communication hidden.
        most: The same with as much communication hidden as fits behind the backward pass.
    """

    devices: int
    seconds: float
    least: float
    most: float


def simulate_scaling(
    flops: float,
    moved: float,
    collectives: int,
    flop_rate: float,
    bandwidth: float,
    devices: Sequence[int] = DEVICES,
    backward: float = BACKWARD,
) -> list[Scaling]:
    """Simulate how the time of a step grows with the devices at constant work for each.

    Args:
        flops: Arithmetic of a step on one device.
        moved: Bytes that a step all-reduces.
        collectives: Number of operations that move them.
        flop_rate: FLOP/s that a device sustains.
        bandwidth: Bytes a second that a device sends and, at the same time, receives.
        devices: The numbers of devices to simulate.
        backward: Fraction of the arithmetic that is the backward pass.
    """
    compute = flops / flop_rate
    found = []
    for count in devices:
        # A ring: each device sends 2 (D - 1) / D of the bytes (Patarasuk & Yuan 2009).
        communication = 2 * (count - 1) / count * moved / bandwidth
        communication += collectives * LATENCY * math.ceil(math.log2(count))
        exposed = max(0.0, communication - backward * compute)
        found.append(
            Scaling(
                count,
                compute + communication,
                compute / (compute + communication),
                compute / (compute + exposed),
            )
        )
    return found


def print_budget(run: Run, console: Console) -> None:
    """Compile the step for shapes alone, and print its memory, communication and scaling."""
    if run.views:
        console.print(
            "Steps run on kept features, which a dry run does not compute: their memory, "
            "communication and scaling are not estimated."
        )
        return
    partitioning = run.partitioning
    state = run.abstract_state()
    shardings = partitioning.state_shardings(state)

    def shaped(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    steps = run.config.calibrate
    # The compiled step runs only on a batch of the same entries, and some have a mask.
    batch: dict[str, Any] = _first_batch(run) if steps else _batch_shapes(run)
    sums = jax.eval_shape(zero_step_metrics)
    size = run.image_size_at(0)
    step = run.step_for(run.phase_at(0), size)
    lowered = lower_step(
        step,
        partitioning,
        jax.tree.map(shaped, state, shardings),
        jax.tree.map(lambda leaf: shaped(leaf, partitioning.replicated_sharding), sums),
        {name: shaped(leaf, partitioning.batch_sharding) for name, leaf in batch.items()},
    )
    compiled = lowered.compile()
    console.print(_memory_table(run, state, shardings, batch["image"], compiled))

    devices, (count, height, width, channels) = partitioning.num_devices, batch["image"].shape
    collectives = collectives_of(compiled.as_text() or "")
    trained, _ = partition(state.params, step.trainable)
    gradients = sum(map(_nbytes, jax.tree.leaves(trained)))
    moved = sum(one.bytes for one in collectives) if devices > 1 else gradients
    communication = (
        f"{_bytes(moved)} a step in {len(collectives)} collectives, by the compiled program"
        if devices > 1
        else f"none on one device; on more, the gradients' {_bytes(gradients)} a step"
    )
    console.print(f"Communication: {communication}. {count // devices:,} images a device and step.")
    preprocess = step.train_preprocess or step.preprocess or (lambda images: images)
    image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.uint8)
    summary = summarize(run.model, jax.eval_shape(preprocess, image).shape[1:])
    backward = backward_macs(summary, trained)
    flops = 2 * (summary.macs + backward) * count / devices
    rate = run.config.parallel.flop_rate
    if steps:
        seconds = _time_steps(run, compiled, batch, steps)
        rate = flops / seconds
        console.print(
            f"Measured over {steps:,} steps: {seconds * 1e3:,.1f} ms a step, {rate:.3g} FLOP/s a "
            "device."
        )
    ratio = backward / summary.macs
    _print_scaling(run, flops, moved, len(collectives) or 1, rate, ratio, console)


def backward_macs(summary: ModelSummary, trained: Any) -> int:
    """Return the multiply-accumulates of the backward pass for one image.

    The gradients of activations are computed in the first stage that trains and in all after it,
    those of kernels where kernels train. Each take as many as the stage's forward pass.
    """
    stages = [stage.name for stage in summary.stages]
    indices = {path: stages.index(stage_of(path[0], stages[-2])) for path in flatten_dict(trained)}
    kernels = {index for path, index in indices.items() if path[-1] == "kernel"}
    activations = range(min(indices.values()), len(stages))
    return sum(summary.stages[index].macs for index in [*activations, *kernels])


def _time_steps(run: Run, compiled: jax.stages.Compiled, batch: Any, steps: int) -> float:
    """Return the mean seconds of some steps on a batch, with their communication."""
    state = run.partitioning.put_state(run.init())
    sums = run.partitioning.replicate(zero_step_metrics())
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            jax.block_until_ready((state, sums))
            began = time.perf_counter()
        state, sums = compiled(state, sums, batch)
    jax.block_until_ready((state, sums))
    return (time.perf_counter() - began) / steps


def _first_batch(run: Run) -> dict[str, jax.Array]:
    with closing(run.batches(0)) as batches:
        batch: dict[str, jax.Array] = next(batches)
    return batch


def _batch_shapes(run: Run) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch of the first step."""
    count, size = run.config.data.batch_size, run.image_size_at(0)
    height, width, channels = run.dataset.image_shape
    if size is not None and run.dataset.train.streams:
        height = width = size
    labels = run.dataset.train.labels
    return {
        "image": jax.ShapeDtypeStruct((count, height, width, channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count, *labels.shape[1:]), labels.dtype),
    }


def _memory_table(
    run: Run,
    state: TrainState,
    shardings: TrainState,
    images: Any,
    compiled: jax.stages.Compiled,
) -> Table:
    table = Table("what", "in all", "on each device", title="Memory", title_justify="left")
    for name, field in {
        "parameters": "params",
        "optimiser": "opt_state",
        "running statistics": "batch_stats",
        "moving average": "ema",
    }.items():
        leaves = jax.tree.leaves(getattr(state, field))
        if leaves:
            total = sum(map(_nbytes, leaves))
            on_each = sum(
                math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                for leaf, sharding in zip(
                    leaves, jax.tree.leaves(getattr(shardings, field)), strict=True
                )
            )
            table.add_row(name, _bytes(total), _bytes(on_each))
    size = math.prod(images.shape)
    devices = run.partitioning.num_devices
    table.add_row(f"batch of {images.shape[0]:,}", _bytes(size), _bytes(size / devices))
    memory = compiled.memory_analysis()
    if memory is not None:
        temporary = memory.temp_size_in_bytes
        table.add_row("activations and workspace", "", _bytes(temporary))
    return table


def _print_scaling(
    run: Run,
    flops: float,
    moved: float,
    collectives: int,
    rate: float,
    ratio: float,
    console: Console,
) -> None:
    parallel = run.config.parallel
    headings = ("devices", "batch", "step", "images/s", "efficiency")
    table = Table(*headings, title="Scaling, simulated", title_justify="left")
    backward = ratio / (1 + ratio)
    rows = simulate_scaling(flops, moved, collectives, rate, parallel.bandwidth, backward=backward)
    images_each = run.config.data.batch_size / jax.device_count()
    for row in rows:
        batch = images_each * row.devices
        table.add_row(
            f"{row.devices:,}",
            f"{batch:,.0f}",
            f"{row.seconds * 1e3:,.1f} ms",
            f"{batch / row.seconds:,.0f}",
            f"{row.least:.0%} to {row.most:.0%}",
        )
    console.print(table)
    assumed = f"{parallel.bandwidth:.3g} bytes/s sent by each device (--parallel.bandwidth)"
    note = ""
    if run.config.calibrate is None:
        assumed = f"{rate:.3g} FLOP/s sustained (--parallel.flop-rate) and {assumed}"
        note = " Nothing of it was measured."
    console.print(
        f"Assumed: {assumed}, the images of a device "
        f"kept at {images_each:g}, ring all-reduces, {LATENCY * 1e6:g} µs for each stage of a "
        f"collective, a backward pass of {ratio:.2g} times the forward pass, and no waiting for "
        "data. The efficiency is given with none of the communication hidden, and with as much as "
        f"fits behind the backward pass.{note}"
    )


def _nbytes(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
