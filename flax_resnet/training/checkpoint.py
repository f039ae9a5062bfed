"""Checkpoints of a run: the latest two, and the best one by validation score."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint import checkpoint_managers as managers

from ..errors import HangingError, StorageError, UserError, first_line
from ..storage import is_remote, move_folder, read_bytes, reason_of
from ..weights.formats.checkpoint import (
    CHECKSUM,
    DELETED,
    EVAL_PENDING,
    METRIC,
    PENDING,
    SEAL,
    SECONDS,
    Facts,
    bring_back_pending,
    checkpoint_steps,
    checksum,
    orbax_path,
    read_facts,
    remove_deleted,
)
from ..weights.formats.orbax_messages import hide_further_failures, hide_saves_without_score
from ..weights.formats.orbax_storage import COMMITTED, committed_by
from .distributed import primary_decides
from .worker import Worker

ATTEMPTS = 3  # of a save that fails
PAUSE_SECONDS = 0.5  # between them
# What earlier versions did not save, and what they trained with in its place.
ADDED = {"state": ["rate_factor"], "sums": ["grad_norm", "nonfinite_steps"]}
UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of folders that orbax is writing
MARGIN_BYTES = 1 << 20  # of free space beyond the arrays, for metadata


class Checkpoints:
    """The folder ``checkpoints/`` of a run; saves run in the background, and ``close`` waits.

    A save is atomic: a run that is killed during one finds the checkpoint before it. A save that
    fails is tried again, ``ATTEMPTS`` times in all; no wait is longer than the deadline.
    """

    def __init__(
        self,
        folder: Path,
        *,
        timeout: float = 600,
        on_error: str = "stop",
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Open the folder, or make it.

        Args:
            folder: The folder. A checkpoint in it whose score or metadata are damaged is renamed to
                ``STEP.damaged``.
            timeout: Seconds after which a wait for the disk or another process is given up.
            on_error: Whether a save that failed ``ATTEMPTS`` times is an error (``"stop"``), or is
                only reported (``"continue"``).
            report: Prints a sentence: on a save that failed, or a damaged checkpoint.

        Raises:
            UserError: The folder cannot be read, or all of its checkpoints are damaged.
        """
        self._folder = folder if is_remote(folder) else folder.absolute()
        self._timeout = timeout
        self._on_error, self._report = on_error, report
        self._saving: int | None = None  # the step of the save in the background
        self._score: float | None = None  # its score
        self._failures = 0  # in a row
        self._failure: UserError | None = None  # that was not yet reported
        self._hangs = False
        self._began, self._seconds = 0.0, 0.0
        self._worker = Worker("checkpoint")
        hide_further_failures()
        hide_saves_without_score()
        with primary_decides():
            if jax.process_index() == 0:
                bring_back_pending(self._folder)
                remove_deleted(self._folder)
                self._set_aside_damaged()
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            # Two, so that there is one left if the latest is damaged.
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(n=2), best]),
            # This ranks best_step(); the policy decides which checkpoints are kept.
            best_fn=lambda metrics: metrics[METRIC],
            cleanup_tmp_directories=True,
            todelete_subdir=None if is_remote(self._folder) else DELETED,
            temporary_path_class=committed_by(self._folder),
            async_options=ocp.AsyncOptions(
                timeout_secs=int(timeout), post_finalization_callback=self._measure
            ),
        )
        # Compression makes trained weights 8% smaller, for a tenth of a save's processor time.
        handler = ocp.PyTreeCheckpointHandler(use_compression=False)
        self._manager = ocp.CheckpointManager(
            orbax_path(self._folder), options=options, item_handlers=handler
        )

    def steps(self) -> list[int]:
        """Steps of all checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best validation score, or None.

        Raises:
            UserError: The last save failed.
        """
        self.wait()
        return self._manager.best_step()

    @property
    def is_saving(self) -> bool:
        """Whether a save runs in the background."""
        return self._saving is not None and self._manager.is_saving_in_progress()

    @property
    def background_seconds(self) -> float:
        """Seconds from the beginning of the last save to its end in the background."""
        return self._seconds

    def _measure(self) -> None:
        self._seconds = time.monotonic() - self._began

    @property
    def retry_is_due(self) -> bool:
        """Whether a save in the background failed and is to be tried again at the next step."""
        if self._saving is not None and not self.is_saving:
            self._finish_saving()
            self._give_up_if_exhausted()
        return self._failure is not None

    def save(
        self,
        step: int,
        tree: Any,
        score: float | None = None,
        evaluated: bool = True,
        wait: bool = False,
        seconds: float | None = None,
    ) -> None:
        """Save a pytree. A failure is reported or raised, as ``on_error`` says.

        Args:
            step: Number of steps done.
            tree: The pytree.
            score: Its validation score, if it has one.
            evaluated: False if the evaluation that is due at this step was not done; a later save
                at the same step then replaces this one.
            wait: Wait for the end of the save, of which a failure is then raised.
            seconds: Time of training so far, if it is known.

        Raises:
            UserError: This save failed. The earlier checkpoints are kept.
        """
        self._finish_saving()
        replaces = self._manager.latest_step() == step
        if replaces and not (evaluated and self.eval_pending(step)):
            return
        tree = serialization.to_state_dict(tree)
        facts = Facts(score, not evaluated, seconds)
        custom: dict[str, Any] = {EVAL_PENDING: facts.eval_pending, SEAL: facts.seal(step)}
        if seconds is not None:
            custom[SECONDS] = seconds
        arguments = ocp.args.PyTreeSave(tree | {CHECKSUM: checksum(tree)})

        def begin() -> None:
            self._manager.save(
                step,
                args=arguments,
                metrics=None if score is None else {METRIC: score},
                custom_metadata=custom,
            )

        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            try:
                with primary_decides():
                    if jax.process_index() == 0:
                        self._check_space(tree)
                if replaces:
                    self._set_aside_pending(step)
                self._began = time.monotonic()
                self._within_deadline(begin)
                self._saving, self._score = step, score
            except HangingError:
                raise
            except Exception as error:
                self._note_failure(error)
            # Other processes that did not fail would not try again with this one.
            is_last = attempt + 1 == ATTEMPTS or jax.process_count() > 1
            if wait:
                self._finish_saving(is_last)
            if self._failure is None or self._saving is not None or is_last:
                break
        if wait:
            self.wait()
        self._give_up_if_exhausted()

    def _set_aside_pending(self, step: int) -> None:
        """Rename the checkpoint of a step until the one that replaces it is complete.

        In object storage, which has no rename, it is deleted.

        Raises:
            UserError: It cannot be renamed.
        """
        if is_remote(self._folder):
            if step in self.steps():
                self._manager.delete(step)
            return
        with primary_decides():
            if jax.process_index() == 0 and (whole := self._folder / str(step)).exists():
                path = whole.with_name(f"{step}{PENDING}")
                shutil.rmtree(path, ignore_errors=True)
                try:
                    whole.rename(path)
                except OSError as error:
                    raise UserError(
                        f"{whole} cannot be renamed: {error.strerror or error}"
                    ) from error
        self._manager.reload()

    def wait(self) -> None:
        """Wait for the save in the background.

        Raises:
            UserError: The last save failed, and that was not yet reported.
        """
        self._finish_saving()
        if self._failure is not None:
            raise self._take_failure()

    def eval_pending(self, step: int) -> bool:
        """Whether a signal came before the evaluation that was due at that checkpoint."""
        self._finish_saving()
        return step in self.steps() and read_facts(self._folder, step).eval_pending

    def seconds(self, step: int) -> float | None:
        """Time of training up to that checkpoint; None if it was not saved."""
        self._finish_saving()
        return read_facts(self._folder, step).seconds

    def restore(self, step: int, template: Any) -> Any:
        """The pytree saved at ``step``, with the structure, types and shardings of ``template``.

        Raises:
            UserError: The checkpoint is damaged, or belongs to another model.
        """
        self._finish_saving()
        tree = serialization.to_state_dict(template)
        added = self._missing(step, tree)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        # With an explicit sharding; otherwise orbax requires the devices that wrote the file.
        numbers = jax.eval_shape(checksum, tree)
        scalar = next((x for x in jax.tree.leaves(tree) if jnp.ndim(x) == 0), None)
        sharding = getattr(scalar, "sharding", None)
        abstract[CHECKSUM] = jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=sharding)
        try:
            read_facts(self._folder, step)
            arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
            restored = self._manager.restore(
                step, args=ocp.args.PyTreeRestore(item=abstract, restore_args=arguments)
            )
            _verify(restored)
        except Exception as error:  # orbax raises errors of many types, none written for users
            if isinstance(error, StorageError):
                raise
            if is_remote(self._folder) and (reason := reason_of(self._folder, error)):
                raise StorageError(f"{self._folder} cannot be read: {reason}.") from error
            raise UserError(
                f"The checkpoint {self._folder / str(step)} cannot be read ({first_line(error)}): "
                "copy it from another copy of the run, delete that folder to resume from the "
                "checkpoint before it, if there is one, or choose another --workdir."
            ) from error
        for entry, values in added.items():
            if values:
                restored[entry] |= values
        return serialization.from_state_dict(template, restored)

    def _missing(self, step: int, tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Remove from a tree the arrays that earlier versions did not save, and return them."""
        try:
            path = self._folder / str(step) / "default" / "_METADATA"
            saved = json.loads(read_bytes(path))["tree_metadata"]
        except (OSError, ValueError, TypeError, KeyError):
            return {}  # the restoration names what is damaged
        return {
            entry: {
                name: tree[entry].pop(name)
                for name in names
                if name in tree.get(entry, {}) and str((entry, name)) not in saved
            }
            for entry, names in ADDED.items()
        }

    def set_aside(self, step: int) -> None:
        """Rename the newest checkpoints down to ``step`` to ``STEP.damaged``."""
        with primary_decides():
            if jax.process_index() == 0:
                for one in checkpoint_steps(self._folder):
                    if one >= step:
                        _set_aside(self._folder, one)
        self._manager.reload()

    def close(self) -> None:
        """Wait for unfinished saves.

        Raises:
            UserError: The last save failed.
        """
        try:
            self.wait()
        finally:
            if not self._hangs:
                self._within_deadline(self._manager.close)
                self._worker.close()

    def _finish_saving(self, is_last: bool = True) -> None:
        """Wait for the save in the background, and note its failure.

        Args:
            is_last: Whether the same state is not saved again if that failed.
        """
        if self._saving is None:
            return
        try:
            self._within_deadline(self._finish)
            self._failures, self._failure = 0, None
        except HangingError:
            raise
        except Exception as error:
            if self._score is not None and is_last:
                self._report(
                    f"The checkpoint of the evaluation after step {self._saving:,} could not be "
                    f"written ({self._reason(error)}), so that it cannot become the best."
                )
            self._note_failure(error)
        finally:
            self._saving = None

    def _finish(self) -> None:
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            bring_back_pending(self._folder)
            remove_deleted(self._folder)

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        # On a full disk, what was written of it would leave no space for the next.
        if jax.process_index() == 0 and not is_remote(self._folder):
            for part in self._folder.glob(f"*{UNFINISHED}*"):
                shutil.rmtree(part, ignore_errors=True)
            bring_back_pending(self._folder)
        # After a failed save orbax has forgotten the steps before it, which are still on the disk
        # (orbax-checkpoint 0.11.28 to 0.12.8).
        self._manager.reload()
        latest = self._manager.latest_step()
        kept = "there is none before it" if latest is None else f"that of step {latest} is kept"
        reason = str(error) if isinstance(error, UserError) else self._reason(error)
        self._failure = UserError(
            f"A checkpoint could not be written to {self._folder} ({reason}); {kept}. "
            "Make space or check the folder; the same command resumes there."
        )
        self._failure.__cause__ = error

    def _take_failure(self) -> UserError:
        assert self._failure is not None
        failure, self._failure, self._failures = self._failure, None, 0
        return failure

    def _give_up_if_exhausted(self) -> None:
        """Report or raise the failure of a save that was tried often enough."""
        if self._failures < ATTEMPTS or self._failure is None:
            return
        failure = self._take_failure()
        if self._on_error == "stop":
            raise failure
        self._report(f"{failure} Training goes on, and saves again when it is due.")

    def _check_space(self, tree: Any) -> None:
        """Raise a UserError if the arrays do not fit on the disk, before any are written."""
        if is_remote(self._folder):
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + MARGIN_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise UserError(f"it needs {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free")

    def _reason(self, error: Exception) -> str:
        """Name what is usual in plain words, whatever library reports it; else its first line."""
        text = str(error)
        # tensorstore's errors end with "[os_error_code='27']", before 0.1.81 "[OS error 27: ...]".
        if code := re.search(r"\[(?:os_error_code='?|OS error )(\d+)", text):
            text = os.strerror(int(code[1]))
        for sign in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota"):
            if sign in text:
                return "no space is left there"
        if code:
            return text
        known = reason_of(self._folder, error) if is_remote(self._folder) else None
        return known or first_line(error)

    def _within_deadline(self, call: Callable[[], None]) -> None:
        """Run a call; raise its error, or a HangingError after the deadline."""
        try:
            # orbax has the same deadline for the other processes.
            self._worker.run(call, self._timeout + 10)
        except TimeoutError as error:
            self._hangs = True
            raise HangingError(
                f"A save to {self._folder} did not end in {self._timeout:g} s "
                "(--checkpoint.timeout), because the disk or another process does not answer: the "
                "run stops here, and the earlier checkpoints are kept."
            ) from error

    def _set_aside_damaged(self) -> None:
        """Rename the checkpoints whose score or metadata are damaged, unless all are."""
        steps = checkpoint_steps(self._folder)
        damaged = {}
        for step in steps:
            try:
                read_facts(self._folder, step)
            except ValueError as error:
                damaged[step] = error
        if damaged and len(damaged) == len(steps):
            step = max(damaged)
            raise UserError(
                f"The checkpoint {self._folder / str(step)} cannot be read ({damaged[step]}), and "
                "there is no other: copy it from another copy of the run, delete that folder to "
                "train from the start, or choose another --workdir."
            )
        for step, reason in damaged.items():
            path = _set_aside(self._folder, step)
            self._report(f"The checkpoint {path} is not used: {reason}.")


def _set_aside(folder: Path, step: int) -> Path:
    path = folder / f"{step}.damaged"
    if is_remote(folder):
        move_folder(folder / str(step), path, COMMITTED)
        return path
    shutil.rmtree(path, ignore_errors=True)
    (folder / str(step)).rename(path)
    return path


def _verify(restored: dict[str, Any]) -> None:
    expected = restored.pop(CHECKSUM)
    if not np.array_equal(jax.device_get(expected), jax.device_get(checksum(restored))):
        raise ValueError("its checksum differs")
