"""The list of a run's checkpoints, and the removal of those that no run needs."""

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..storage import delete, folders_in, is_remote
from ..weights.formats.checkpoint import (
    DELETED,
    PENDING,
    checkpoint_steps,
    read_facts,
    read_tree,
)
from ..weights.formats.orbax_storage import COMMITTED
from .object_lock import take_lock


@dataclass(frozen=True)
class Listed:
    """A folder in ``checkpoints/``.

    Attributes:
        name: Its name; the step, where it is a checkpoint.
        saved: When it was written, in seconds since 1970.
        size: Bytes.
        score: The validation score, or None.
        marks: ``latest``, ``best``, ``verified``, ``evaluation pending``, ``unfinished``,
            ``deleted``, or ``damaged`` with the reason; with ``set aside`` where it was renamed.
    """

    name: str
    saved: float
    size: int
    score: float | None
    marks: tuple[str, ...]

    @property
    def is_damaged(self) -> bool:
        """Whether it cannot be restored."""
        return any(mark.startswith("damaged") for mark in self.marks)


def list_checkpoints(folder: Path, *, verify: bool) -> list[Listed]:
    """List what ``checkpoints/`` of a run holds; nothing is written.

    Args:
        folder: The run's folder.
        verify: Read each checkpoint and compare its checksums.

    Raises:
        UserError: The folder is not a run's.
    """
    root = folder / "checkpoints"
    if not root.is_dir():
        raise UserError(f"There are no checkpoints in {folder}: is it a run's folder?")
    steps = checkpoint_steps(root)
    scores: dict[int, float | None] = {}
    marks: dict[str, list[str]] = {}
    for step in steps:
        mine = marks.setdefault(str(step), [])
        try:
            facts = read_facts(root, step)
            if verify:
                read_tree(root, step)
                mine.append("verified")
        except (ValueError, UserError) as error:
            mine.append(f"damaged: {str(error).rpartition('is damaged: ')[2].rstrip('.')}")
            continue
        scores[step] = facts.score
        if facts.eval_pending:
            mine.append("evaluation pending")
    if scores:
        marks[str(max(scores))].insert(0, "latest")
    ranked = {step: score for step, score in scores.items() if score is not None}
    if ranked:
        best = max(ranked, key=lambda step: (_rank(ranked[step]), step))
        marks[str(best)].insert(0, "best")
    folders = folders_in(root)
    for name in sorted(name for name in folders if name not in marks):
        left = "deleted" if name == DELETED else "unfinished"
        if name.endswith(".damaged"):
            left = "damaged, set aside"
        elif name.endswith(PENDING):
            left = "evaluation pending, set aside"
        marks[name] = [left]
    return [
        Listed(
            name,
            *folders[name],
            scores.get(int(name)) if name.isdecimal() else None,
            tuple(found),
        )
        for name, found in marks.items()
    ]


def prune_checkpoints(folder: Path, listed: list[Listed]) -> list[str]:
    """Remove all but the latest and the best checkpoint; while a run uses the folder, nothing.

    Returns:
        The names of what was removed.

    Raises:
        UserError: A run uses the folder.
    """
    kept = [one.name for one in listed if {"latest", "best"} & {*one.marks}]
    # The run takes it up or removes it when it goes on.
    kept += [one.name for one in listed if one.name.endswith(PENDING)]
    lock = take_lock(folder, "checkpoints --prune")
    try:
        removed = [one.name for one in listed if one.name not in kept]
        for name in removed:
            _remove(folder / "checkpoints", name)
    finally:
        lock.release()
    return removed


def _remove(root: Path, name: str) -> None:
    """Remove a folder so that no part of it, at whatever moment, counts as a checkpoint."""
    if is_remote(root):
        delete(root / name / COMMITTED)  # what is left counts as unfinished
        delete(root / name)
        return
    delete(root / DELETED)
    if name != DELETED:
        (root / DELETED).mkdir()
        (root / name).rename(root / DELETED / name)
        delete(root / DELETED)


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score
