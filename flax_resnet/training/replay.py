"""Steps of a run, computed again from a state that was saved."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
from flax import serialization
from rich.console import Console

from ..config import unflatten
from ..runtime import require_determinism
from ..weights import check_sealed
from ..weights.formats.checkpoint import read_tree
from .partitioning import compile_step
from .resolve import resolve
from .run import Run
from .state import TrainState
from .step import zero_step_metrics
from .transfer.features import keep_features
from .workdir import read_settings


def use_algorithms_of(folder: Path) -> None:
    """Let JAX use deterministic algorithms where the run did; call it before JAX starts.

    Args:
        folder: The run's folder.

    Raises:
        UserError: JAX has started without the flags for it, or the settings cannot be read.
    """
    if read_settings(folder).get("deterministic"):
        require_determinism()


def load_saved(
    folder: Path, checkpoints: Path, saved: int, step: int, console: Console
) -> tuple[Run, TrainState]:
    """Return the run of a folder and a state of it; nothing is written.

    Args:
        folder: The run's folder.
        checkpoints: A folder of checkpoints.
        saved: The number of the checkpoint; 0 for the state before the first step.
        step: Steps done in that state.
        console: Where notes are printed.

    Raises:
        UserError: The checkpoint is damaged, the settings or data cannot be read, or the run was
            deterministic and JAX has started without the flags for it.
    """
    check_sealed(folder)
    use_algorithms_of(folder)
    run = resolve(unflatten(read_settings(folder)))
    state = run.init()
    if run.views:
        run = keep_features(run, state, console)
    if saved:
        state = run.step_for(run.phase_at(max(step - 1, 0))).init_optimizer(state)
        # An earlier version saved no factor.
        tree = {"rate_factor": state.rate_factor} | read_tree(checkpoints, saved)["state"]
        state = serialization.from_state_dict(state, tree)
    return run, run.partitioning.put_state(state)


def replay(
    run: Run,
    state: TrainState,
    start: int,
    stop: int,
    each: Callable[[int, TrainState, dict[str, Any]], None] | None = None,
) -> TrainState:
    """Compute the steps from ``start`` to ``stop`` (exclusive) as training does.

    Args:
        run: The run.
        state: The state after ``start`` steps.
        start, stop: Steps, from 0.
        each: Called with the number of steps done, the state, and the step's metrics.
    """
    partitioning, phase = run.partitioning, run.phase_at(max(start - 1, 0))
    with closing(run.batches(start)) as batches:
        for segment in run.segments(start):
            if segment.steps.start >= stop:
                break
            step = run.step_for(segment.phase, segment.image_size)
            if segment.phase != phase:
                phase = segment.phase
                state = partitioning.put_state(step.init_optimizer(state))
            compiled = None
            for index in segment.steps:
                if index >= stop:
                    break
                batch, sums = next(batches), partitioning.replicate(zero_step_metrics())
                if compiled is None:
                    compiled = compile_step(step, partitioning, state, sums, batch)
                state, sums = compiled(state, sums, batch)
                if each is not None:
                    each(index + 1, state, jax.device_get(sums))
    return state
