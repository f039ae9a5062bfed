"""The schedule of a run: which stages train when, at which image size.

It is known before the first step, as a function of the settings alone, so a resumed run follows the
schedule of the run that was never stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..config import TransferConfig
from ..errors import UserError


@dataclass(frozen=True)
class Phase:
    """Steps in which the same stages train.

    Attributes:
        first_step: The step it starts at, from 0.
        freeze_before: The first stage that trains; None where all do.
    """

    first_step: int
    freeze_before: str | None


@dataclass(frozen=True)
class Segment:
    """Consecutive steps that share one compiled program.

    Attributes:
        steps: The steps, from 0.
        phase: Which stages train.
        image_size: Height and width of the training images; None for that of evaluation.
    """

    steps: range
    phase: Phase
    image_size: int | None


def plan_phases(
    config: TransferConfig, stages: Sequence[str], total_steps: int, epochs: float
) -> tuple[Phase, ...]:
    """Plan the phases of a run.

    Args:
        config: The transfer section of the settings.
        stages: Those of the model, first to last.
        total_steps: Steps of the whole run.
        epochs: Epochs of the whole run.

    Raises:
        UserError: ``freeze_before`` names no stage, or the mode does not use it.
    """
    lowest = config.freeze_before
    if lowest is not None and lowest not in stages:
        raise UserError(
            f"--freeze-before {lowest}: the model has no such stage; its stages are "
            f"{', '.join(stages)}.",
            exit_code=2,
        )
    if lowest is not None and config.mode in ("full", "head"):
        raise UserError(
            f"--freeze-before has no effect in mode {config.mode}: use --mode partial or gradual.",
            exit_code=2,
        )
    if config.mode == "full":
        return (Phase(0, None),)
    if config.mode == "head":
        return (Phase(0, stages[-1]),)
    if config.mode == "partial":
        return (Phase(0, lowest or stages[-2]),)
    downwards = stages[stages.index(lowest or stages[0]) :][::-1]
    # The whole model trains for at least half of the run, before its learning rate has fallen.
    epochs_each = min(config.unfreeze_epochs, epochs / 2 / max(len(downwards) - 1, 1))
    steps_each = epochs_each * total_steps / epochs
    return tuple(
        Phase(round(number * steps_each), None if stage == stages[0] else stage)
        for number, stage in enumerate(downwards)
    )


def plan_segments(
    phases: Sequence[Phase], image_sizes: Sequence[tuple[int, int]], start: int, stop: int
) -> list[Segment]:
    """Cut the steps from ``start`` to ``stop`` (exclusive) where phase or image size changes.

    Args:
        phases: Those of the run.
        image_sizes: Pairs of a first step and the training images' size from there on.
        start: The first step.
        stop: The step after the last.
    """
    changes = {phase.first_step for phase in phases} | {first for first, _ in image_sizes}
    bounds = [start, *sorted(step for step in changes if start < step < stop), stop]
    return [
        Segment(range(first, last), phase_at(phases, first), size_at(image_sizes, first))
        for first, last in pairwise(bounds)
        if first < last
    ]


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase that step ``step``, from 0, belongs to."""
    return [phase for phase in phases if phase.first_step <= max(step, 0)][-1]


def size_at(image_sizes: Sequence[tuple[int, int]], step: int) -> int | None:
    """Height and width of the training images in step ``step``; None as in evaluation."""
    sizes = [size for first, size in image_sizes if first <= step]
    return sizes[-1] if sizes else None
