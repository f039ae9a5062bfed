"""The first step that is not finite: found by computing steps again, and kept to be repeated."""

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ..errors import UserError
from ..output_files import write_json
from ..storage import delete
from .checkpoint import Checkpoints
from .distributed import primary_decides
from .replay import load_saved, replay
from .run import Run
from .state import TrainState

FILE = "debug.json"
MOST_NAMES = 8


class _Found(Exception):
    """The step was found."""


def explain(
    run: Run, restore: Callable[[], tuple[TrainState, int]], stop: int, workdir: Path
) -> str | None:
    """Find the first step whose loss or gradient is not finite, and keep it in ``debug/step-N/``.

    Args:
        run: The run.
        restore: Returns a finite state and its number of steps; it is called twice.
        stop: The number of steps after which the loop noticed.
        workdir: The run's folder.

    Returns:
        Sentences with step, learning rate, samples and the folder; None if all steps are finite
        when they are computed again.
    """
    run = _without_skipping(run)
    found: dict[str, Any] = {}

    def look(done: int, state: TrainState, metrics: dict[str, Any]) -> None:
        if np.any(metrics["nonfinite_steps"]):
            count = max(float(metrics["count"]), 1)
            found.update(
                step=done,
                learning_rate=float(run.schedule(done - 1)) * float(state.rate_factor),
                loss=float(metrics["loss"]) / count,
                grad_norm=float(metrics["grad_norm"]) / count,
                samples=run.samples(done - 1),
            )
            raise _Found

    state, start = restore()
    with suppress(_Found):
        replay(run, state, start, stop, look)
    if not found:
        return None
    before = found["step"] - 1
    state, start = restore()
    state = replay(run, state, start, before)
    folder = workdir / "debug" / f"step-{found['step']}"
    # A state that an earlier attempt at this step left would not be replaced.
    with primary_decides():
        if jax.process_index() == 0:
            delete(folder)
    with closing(Checkpoints(folder)) as kept:
        kept.save(before or 1, {"state": state}, wait=True)
    if jax.process_index() == 0:
        write_json(folder / FILE, {"saved": before or 1} | found)
    what = "gradient" if math.isfinite(found["loss"]) else "loss"
    samples = ", ".join(map(str, found["samples"][:MOST_NAMES]))
    more = f" and {len(found['samples']) - MOST_NAMES} more" * (len(found["samples"]) > MOST_NAMES)
    return (
        f"The {what} is not finite at step {found['step']}: training diverged, at learning rate "
        f"{found['learning_rate']:g} on the samples {samples}{more}. `flax-resnet debug-step "
        f"{folder}` computes that step again."
    )


def debug_step(folder: Path, console: Console) -> list[str]:
    """Compute the step that ``explain`` kept, and say what it found.

    Args:
        folder: ``debug/step-N/`` in a run's folder.
        console: Where notes are printed.

    Returns:
        Sentences.

    Raises:
        UserError: The folder is damaged, or the run's data cannot be read.
    """
    try:
        kept = json.loads((folder / FILE).read_text(encoding="utf-8"))
        step, saved, samples = kept["step"], kept["saved"], kept["samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} does not hold a step that failed: name the folder debug/step-N of a run."
        ) from error
    run, state = load_saved(folder.absolute().parents[1], folder, saved, step - 1, console)
    run = _without_skipping(run)
    lines = [
        f"Step {step:,}, learning rate {kept['learning_rate']:g}.",
        f"Samples of the training set: {', '.join(map(str, samples))}.",
    ]
    broken = _not_finite(state)
    lines.append(f"The state before the step is not finite in {broken}." if broken else "")

    def look(done: int, state: TrainState, metrics: dict[str, Any]) -> None:
        count = max(metrics["count"], 1)
        lines.append(
            f"Loss {metrics['loss'] / count:g}, norm of the gradient "
            f"{metrics['grad_norm'] / count:g}."
        )
        after = _not_finite(state)
        lines.append(f"The state after the step is not finite in {after}." if after else "")

    replay(run, state, step - 1, step, look)
    return [line for line in lines if line]


def _without_skipping(run: Run) -> Run:
    """The run with steps that are computed where ``--on-nan skip`` skips them: the metrics of a
    skipped step are 0."""
    step = dataclasses.replace(run.step, skips_nonfinite=False)
    return dataclasses.replace(run, step=step)


def _not_finite(state: TrainState) -> str:
    """Name the arrays of a state with NaN or infinity."""
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not np.isfinite(np.asarray(leaf, np.float64)).all()
    ]
    more = f" and {len(names) - MOST_NAMES} more" * (len(names) > MOST_NAMES)
    return ", ".join(names[:MOST_NAMES]) + more
