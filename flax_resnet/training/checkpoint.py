"""Checkpoints of a run: the latest one, and the best one by validation score."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint import checkpoint_managers as managers

from ..errors import UserError, first_line
from ..weights.formats.checkpoint import CHECKSUM, METRIC, checksum, orbax_path

EVAL_PENDING = "eval_pending"


class Checkpoints:
    """The folder ``checkpoints/`` of a run; saves run in the background, and ``close`` waits.

    A save is atomic: a run that is killed during one finds the checkpoint before it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        latest = managers.LatestN(n=1)
        best = managers.BestN(
            get_metric_fn=lambda metrics: metrics[METRIC],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy([latest, best]),
            # This ranks best_step(); the policy decides which checkpoints are kept.
            best_fn=lambda metrics: metrics[METRIC],
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(orbax_path(self._folder), options=options)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best validation score, or None."""
        self._wait()
        return self._manager.best_step()

    def save(
        self, step: int, tree: Any, score: float | None = None, evaluated: bool = True
    ) -> None:
        """Save a pytree.

        Args:
            step: Number of steps done.
            tree: The pytree.
            score: Its validation score, if it has one.
            evaluated: False if the evaluation that is due at this step was not done; a later save
                at the same step then replaces this one.

        Raises:
            UserError: This save or the one before it failed. The earlier checkpoints are kept.
        """
        self._wait()
        if self._manager.latest_step() == step:
            if not (evaluated and self.eval_pending(step)):
                return
            self._manager.delete(step)
        tree = serialization.to_state_dict(tree)
        try:
            self._manager.save(
                step,
                args=ocp.args.StandardSave(tree | {CHECKSUM: checksum(tree)}),
                metrics=None if score is None else {METRIC: score},
                custom_metadata={EVAL_PENDING: not evaluated},
            )
        except Exception as error:
            raise self._failed_save(error) from error

    def _wait(self) -> None:
        """Wait for the save in the background."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed_save(error) from error

    def _failed_save(self, error: Exception) -> UserError:
        # After a failed save orbax has forgotten the steps before it, which are still on the disk
        # (orbax-checkpoint 0.11.28 to 0.12.8).
        self._manager.reload()
        latest = self._manager.latest_step()
        kept = "there is none before it" if latest is None else f"that of step {latest} is kept"
        return UserError(
            f"A checkpoint could not be written to {self._folder} ({first_line(error)}); {kept}. "
            "Make space or check the folder, and run the same command again."
        )

    def eval_pending(self, step: int) -> bool:
        """Whether a signal came before the evaluation that was due at that checkpoint."""
        self._wait()
        return bool((self._manager.metadata(step).custom_metadata or {}).get(EVAL_PENDING))

    def restore(self, step: int, template: Any) -> Any:
        """The pytree saved at ``step``, with the structure, types and shardings of ``template``.

        Raises:
            UserError: The checkpoint is damaged, or belongs to another model.
        """
        self._wait()
        tree = serialization.to_state_dict(template)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        # With an explicit sharding; otherwise orbax requires the devices that wrote the file.
        numbers = jax.eval_shape(checksum, tree)
        scalar = next((x for x in jax.tree.leaves(tree) if jnp.ndim(x) == 0), None)
        sharding = getattr(scalar, "sharding", None)
        abstract[CHECKSUM] = jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=sharding)
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            _verify(restored)
        except Exception as error:  # orbax raises errors of many types, none written for users
            raise UserError(
                f"The checkpoint {self._folder / str(step)} cannot be read ({first_line(error)}): "
                "delete that folder to resume from the checkpoint before it, if there is one, or "
                "choose another --workdir."
            ) from error
        return serialization.from_state_dict(template, restored)

    def close(self) -> None:
        """Wait for unfinished saves.

        Raises:
            UserError: The last save failed.
        """
        try:
            self._wait()
        finally:
            self._manager.close()


def _verify(restored: dict[str, Any]) -> None:
    expected = restored.pop(CHECKSUM)
    if not np.array_equal(jax.device_get(expected), jax.device_get(checksum(restored))):
        raise ValueError("its checksum differs")
