"""Memory and communication of a run, and how it would scale: told by ``--dry-run``.

Nothing is trained: sizes come from shapes and shardings, memory and collectives from the compiled
step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from ..models import summarize
from .communication import collectives_of
from .parallel import Partitioning, lower_step, state_shardings
from .setup import Run
from .step import zero_metrics

DEVICES = (1, 8, 64, 512, 4096)
LATENCY = 1e-5  # seconds a collective waits at each of log2(devices) stages; assumed
BACKWARD = 2 / 3  # of a step's arithmetic, in which gradients can be on their way


@dataclass(frozen=True)
class Scaling:
    """A simulated step on so many devices, each with the same share of a batch.

    Attributes:
      seconds: of the step, none of the communication hidden.
      least, most: share of the step that is arithmetic: with none of the communication hidden, and
        with as much as fits behind the backward pass.
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
) -> list[Scaling]:
    """How the time of a step grows with the devices, the work of each kept the same.

    Args:
      flops: arithmetic of one device's share of a step.
      moved: bytes all-reduced in a step.
      collectives: how many operations move them.
      flop_rate: FLOP/s that a device sustains.
      bandwidth: bytes a second that a device sends and, at once, receives.
      devices: the numbers to simulate.
    """
    compute = flops / flop_rate
    found = []
    for count in devices:
        # A ring: each device sends 2 (D - 1) / D of the bytes (Patarasuk & Yuan 2009).
        talk = 2 * (count - 1) / count * moved / bandwidth
        talk += collectives * LATENCY * math.ceil(math.log2(count))
        shown = max(0.0, talk - BACKWARD * compute)
        found.append(
            Scaling(count, compute + talk, compute / (compute + talk), compute / (compute + shown))
        )
    return found


def print_budget(run: Run, partitioning: Partitioning, console: Console) -> None:
    """Compile the step for shapes alone, and print what it takes and says."""
    config, state = run.config, run.state
    shardings = state_shardings(state, partitioning)

    def shaped(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    size = run.train_size_at(0)
    height, width, channels = run.dataset.image_shape
    if size is not None and run.dataset.train.streams:
        height = width = size
    count = config.data.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, height, width, channels), jnp.uint8),
        "label": jax.ShapeDtypeStruct(
            (count, *run.dataset.train.labels.shape[1:]), run.dataset.train.labels.dtype
        ),
    }
    batch = {name: shaped(value, partitioning.rows) for name, value in batch.items()}
    sums = jax.tree.map(lambda leaf: shaped(leaf, partitioning.whole), jax.eval_shape(zero_metrics))
    compiled = lower_step(
        partitioning, jax.tree.map(shaped, state, shardings), sums, batch
    ).compile()

    table = Table("what", "in all", "on each device", title="Memory", title_justify="left")
    for name, part in {
        "parameters": "params",
        "optimiser": "opt_state",
        "running statistics": "batch_stats",
        "moving average": "ema",
    }.items():
        tree = getattr(state, part)
        pairs = list(
            zip(jax.tree.leaves(tree), jax.tree.leaves(getattr(shardings, part)), strict=True)
        )
        if pairs:
            whole = sum(leaf.nbytes for leaf, _ in pairs)
            here = sum(
                math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
                for leaf, where in pairs
            )
            table.add_row(name, _bytes(whole), _bytes(here))
    images = count * height * width * channels
    table.add_row(f"batch of {count:,}", _bytes(images), _bytes(images / partitioning.devices))
    memory = compiled.memory_analysis()
    if memory is not None:
        temporary = memory.temp_size_in_bytes
        table.add_row("activations and workspace", "", _bytes(temporary))
    console.print(table)

    spoken = collectives_of(compiled.as_text() or "")
    gradients = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    moved = sum(one.bytes for one in spoken) if partitioning.devices > 1 else gradients
    told = (
        f"{_bytes(moved)} a step in {len(spoken)} collectives, by the compiled program"
        if partitioning.devices > 1
        else f"none on one device; on more, the gradients' {_bytes(gradients)} a step"
    )
    console.print(
        f"Communication: {told}. {count // partitioning.devices:,} images a device and step."
    )
    side = run.sized(state.options, size)
    seen = side.train_preprocess or side.preprocess or (lambda images: images)
    image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.uint8)
    macs = summarize(run.model, jax.eval_shape(seen, image).shape[1:]).macs
    _print_scaling(run, 6 * macs * count / partitioning.devices, moved, len(spoken) or 1, console)


def _print_scaling(
    run: Run, flops: float, moved: float, collectives: int, console: Console
) -> None:
    parallel = run.config.parallel
    headings = ("devices", "batch", "step", "images/s", "efficiency")
    table = Table(*headings, title="Scaling, simulated", title_justify="left")
    rows = simulate_scaling(flops, moved, collectives, parallel.flop_rate, parallel.bandwidth)
    share = run.config.data.batch_size / jax.device_count()
    for row in rows:
        batch = share * row.devices
        table.add_row(
            f"{row.devices:,}",
            f"{batch:,.0f}",
            f"{row.seconds * 1e3:,.1f} ms",
            f"{batch / row.seconds:,.0f}",
            f"{row.least:.0%} to {row.most:.0%}",
        )
    console.print(table)
    console.print(
        f"Assumed: {parallel.flop_rate:.3g} FLOP/s sustained and {parallel.bandwidth:.3g} bytes/s "
        "sent by each device (--parallel.flop-rate, --parallel.bandwidth), the images of a device "
        f"kept at {share:g}, rings, {LATENCY * 1e6:g} µs a stage of a collective, backward pass "
        "twice the forward, data never waited for. Efficiency with none of the communication "
        "hidden, and with as much as fits behind the backward pass. Nothing of it was measured."
    )


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
