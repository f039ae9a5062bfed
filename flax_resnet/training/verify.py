"""Verification of a run's folder: every file is read, and steps are computed again."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from flax import serialization
from rich.console import Console

from ..errors import UserError
from ..report import read_history
from ..weights import CHECKSUMS, RUN_WEIGHTS, check_sealed, read_weights, sealed_names
from ..weights.formats.checkpoint import checkpoint_steps, read_tree, state_digest
from .replay import load_saved, replay
from .workdir import CONFIG

Finding = tuple[bool, str]  # whether it is right, and a sentence


def verify_files(folder: Path) -> Iterator[Finding]:
    """Read every file that decides, and yield what was found.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The folder is not a run's.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run's folder: it has no {CONFIG}.")
    try:
        names = sealed_names(folder)
        if not names:
            yield True, f"There is no {CHECKSUMS}, which earlier versions did not write."
    except UserError as error:
        yield False, str(error)
        names = []
    for name in names:
        yield _attempt(f"{name} is as written.", partial(check_sealed, folder, [name]))
    history: list[dict[str, Any]] = []
    path = folder / "history.jsonl"
    yield _attempt("history.jsonl is as written.", lambda: history.extend(read_history(path)))
    digests = {line["step"]: line["digest"] for line in history if "digest" in line}
    for step in checkpoint_steps(folder / "checkpoints"):
        known = ", and has the digest that the history names" if step in digests else ""
        yield _attempt(
            f"The checkpoint after step {step:,} is as written{known}.",
            partial(_check_checkpoint, folder, step, digests.get(step)),
        )
    for path in sorted((folder / "checkpoints").glob("*.damaged")):
        yield False, f"{path} was set aside as damaged."
    weights = folder / RUN_WEIGHTS
    if weights.exists():
        yield _attempt(f"{RUN_WEIGHTS} is as written.", lambda: dict(read_weights(weights)))


def _attempt(right: str, check: Callable[[], Any]) -> Finding:
    try:
        check()
    except UserError as error:
        return False, str(error)
    return True, right


def _check_checkpoint(folder: Path, step: int, digest: str | None) -> None:
    state = read_tree(folder / "checkpoints", step)["state"]
    if digest is not None and state_digest(state) != digest:
        raise UserError(
            f"The checkpoint after step {step:,} has another digest than the history names: one of "
            "them is of another run."
        )


def verify_by_replay(folder: Path, most_steps: int, console: Console) -> str:
    """Compute steps again from a checkpoint, or from the start, to one whose digest is known.

    Args:
        folder: The run's folder.
        most_steps: The most steps to compute.
        console: Where notes are printed.

    Returns:
        A sentence that says which steps gave the same bits.

    Raises:
        UserError: The digests differ, no digest can be reached by so many steps or without a
            rollback, or the data cannot be read.
    """
    history = [line for line in read_history(folder / "history.jsonl") if "digest" in line]
    digests = {line["step"]: line["digest"] for line in history}
    factors = {line["step"]: line.get("rate_factor", 1.0) for line in history}
    starts = dict.fromkeys([0, *checkpoint_steps(folder / "checkpoints")], 1.0)
    if set(factors.values()) - {1.0}:
        starts = {start: _rate_factor(folder, start) for start in starts}
    spans = [(stop - start, start, stop) for start in starts for stop in digests if stop > start]
    if not spans:
        raise UserError(f"The history of {folder} names no digest after a checkpoint to compare.")
    # With another factor at its end, a span holds a rollback, which replay does not repeat.
    spans = [one for one in spans if starts[one[1]] == factors[one[2]]]
    if not spans:
        raise UserError(
            f"Between each checkpoint of {folder} and each digest after it the run was rolled back "
            "(--on-nan rollback), so that no steps can be computed again."
        )
    steps, start, stop = max((one for one in spans if one[0] <= most_steps), default=min(spans))
    if steps > most_steps:
        origin = f"the checkpoint of step {start:,}" if start else "the start"
        raise UserError(
            f"The nearest digest is that of step {stop:,}, {steps:,} steps after {origin}: use "
            f"--replay {steps}.",
            exit_code=2,
        )
    run, state = load_saved(folder, folder / "checkpoints", start, start, console)
    state = replay(run, state, start, stop)
    found = state_digest(serialization.to_state_dict(state))
    span = f"Steps {start + 1:,} to {stop:,}" if steps > 1 else f"Step {stop:,}"
    span += ", computed again,"
    if found != digests[stop]:
        raise UserError(
            f"{span} gave the digest {found} in place of {digests[stop]}: the machine, its number "
            "of devices, JAX or XLA differ from those of the run, or a computation was wrong."
        )
    return f"{span} gave the same bits (digest {found})."


def _rate_factor(folder: Path, start: int) -> float:
    """The factor of the learning rate in a checkpoint; 1 before the first step."""
    if not start:
        return 1.0
    state = read_tree(folder / "checkpoints", start)["state"]
    return float(state.get("rate_factor", 1.0))  # an earlier version saved none
