"""Checkpoints of a run: the latest always, and the best by validation."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from jax import lax
from orbax.checkpoint import checkpoint_managers as managers

from ..errors import UserError
from ..models import QUICK_COMPILATION
from .saved_variables import CHECKSUM, METRIC, first_line

EVAL_PENDING = "eval_pending"


class Checkpoints:
    """The folder ``checkpoints/`` of a run. Saving goes on in the background; ``close`` waits.

    A save is atomic: a run killed in the middle of one finds the checkpoint before it.
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
            # Ranks best_step(); what is kept is the policy's business.
            best_fn=lambda metrics: metrics[METRIC],
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best validation score, or None."""
        self._manager.wait_until_finished()
        return self._manager.best_step()

    def save(
        self, step: int, tree: Any, score: float | None = None, evaluated: bool = True
    ) -> None:
        """Save a pytree as of ``step``, with its validation score if it has one.

        Args:
            evaluated: False where the evaluation that is due at this step was not done; a later
                save at the same step then takes this one's place.
        """
        if self._manager.latest_step() == step:
            if not (evaluated and self.eval_pending(step)):
                return
            self._manager.wait_until_finished()
            self._manager.delete(step)
        tree = serialization.to_state_dict(tree)
        self._manager.save(
            step,
            args=ocp.args.StandardSave(tree | {CHECKSUM: checksum(tree)}),
            metrics=None if score is None else {METRIC: score},
            custom_metadata={EVAL_PENDING: not evaluated},
        )

    def eval_pending(self, step: int) -> bool:
        """Whether a signal came before the evaluation that was due at that checkpoint."""
        self._manager.wait_until_finished()
        return bool((self._manager.metadata(step).custom_metadata or {}).get(EVAL_PENDING))

    def restore(self, step: int, template: Any) -> Any:
        """The pytree saved at ``step``, with the structure, types and shardings of ``template``.

        Raises:
            UserError: the checkpoint is damaged, or is not of this model.
        """
        self._manager.wait_until_finished()
        tree = serialization.to_state_dict(template)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        # With a place of its own: orbax would ask for the devices that wrote it.
        numbers = jax.eval_shape(checksum, tree)
        scalar = next((x for x in jax.tree.leaves(tree) if jnp.ndim(x) == 0), None)
        place = getattr(scalar, "sharding", None)
        abstract[CHECKSUM] = jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=place)
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
            _verify(restored)
        except Exception as error:  # orbax raises many kinds, none of them for a user
            raise UserError(
                f"The checkpoint {self._folder / str(step)} cannot be read ({first_line(error)}): "
                "delete that folder to go on from the checkpoint before it, if there is one, or "
                "choose another --workdir."
            ) from error
        return serialization.from_state_dict(template, restored)

    def close(self) -> None:
        """Wait for the saves under way."""
        self._manager.close()


def write_variables(folder: Path, variables: Mapping[str, Any]) -> None:
    """Write variables as the checkpoint of step 0; see :func:`saved_variables.read_variables`."""
    state = {name: variables.get(name, {}) for name in ("params", "batch_stats")}
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        manager.save(0, args=ocp.args.StandardSave({"state": state}))


@partial(jax.jit, compiler_options=QUICK_COMPILATION)
def checksum(tree: Any) -> jax.Array:
    """A number for each leaf that any changed bit changes, uint32 ``[leaves]``.

    The sum of its words, each times an odd number of its place, modulo 2**32: the same however the
    leaf is spread over devices. Orbax itself restores a damaged file without a word.
    """
    return jnp.stack([_leaf_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _leaf_checksum(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    word = jnp.dtype(f"uint{min(8 * leaf.dtype.itemsize, 32)}")
    words = lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * size + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def _verify(restored: dict[str, Any]) -> None:
    expected = restored.pop(CHECKSUM)
    if not np.array_equal(jax.device_get(expected), jax.device_get(checksum(restored))):
        raise ValueError("its checksum differs")
