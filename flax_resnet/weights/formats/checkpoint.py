"""Orbax checkpoints of training runs: their checksums, and their weights read back."""

import glob
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...errors import UserError, first_line
from ...storage import is_remote, list_files, read_bytes
from .orbax_messages import hide_further_failures
from .orbax_storage import COMMITTED, committed_by, enable_s3

METRIC = "score"  # of validation; the best checkpoint has the highest
CHECKSUM = "checksum"  # entry of the saved tree, next to the state
# Entries of orbax's custom metadata.
EVAL_PENDING, SEAL, SECONDS = "eval_pending", "seal", "seconds"
DELETED = "deleted"  # a subfolder, see remove_deleted
MOST_ATTEMPTS = 5  # of reading, while a run removes checkpoints
PENDING = ".pending"  # ends the name of a checkpoint that another of its step replaces


@dataclass(frozen=True)
class Facts:
    """What decides which checkpoint is used, besides its step, and the time of training.

    Attributes:
        score: The validation score; None without one.
        eval_pending: Whether a signal came before the evaluation that was due.
        seconds: Time of training so far; None if an earlier version saved the checkpoint.
    """

    score: float | None
    eval_pending: bool
    seconds: float | None = None

    def seal(self, step: int) -> str:
        """Return a digest of the facts and the step, by which a damaged one is noticed."""
        facts = [step, self.score, self.eval_pending]
        if self.seconds is not None:
            facts.append(self.seconds)
        text = json.dumps(facts)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in ``checkpoints/``, in order.

    Orbax names a checkpoint's folder by its step when all of it is written; in object storage it
    writes a last file into it then.
    """
    if is_remote(folder):
        ends = [PurePosixPath(name).parts for name in list_files(folder)]
        return sorted(int(end[0]) for end in ends if end[1:] == (COMMITTED,) and end[0].isdecimal())
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def remove_deleted(folder: Path) -> None:
    """Remove the checkpoints that were moved to ``checkpoints/deleted/``; none need be there.

    On a local disk a checkpoint is moved there before its files are removed, so that a process that
    is killed meanwhile leaves no part of it under the name of its step.
    """
    if not is_remote(folder):
        shutil.rmtree(folder / DELETED, ignore_errors=True)


def bring_back_pending(folder: Path) -> None:
    """Give a checkpoint that was set aside its name again, unless the one that replaces it is
    there: then it is moved to where ``remove_deleted`` removes it.

    On a local disk a checkpoint whose evaluation is pending is renamed to ``STEP.pending`` until
    the same state is saved with its evaluation, so that a process that is killed meanwhile loses
    nothing. What cannot be renamed stays.
    """
    if is_remote(folder):
        return
    for path in folder.glob(f"*{PENDING}"):
        with suppress(OSError):
            whole = path.with_suffix("")
            if whole.exists():
                (folder / DELETED).mkdir(exist_ok=True)
                path.rename(folder / DELETED / path.name)
            else:
                path.rename(whole)


def read_facts(folder: Path, step: int) -> Facts:
    """Read the facts of a checkpoint from the files that orbax writes.

    Raises:
        ValueError: A file is damaged, or missing.
        StorageError: A store cannot be read.
    """
    path = folder / str(step)
    try:
        metadata = json.loads(read_bytes(path / "_CHECKPOINT_METADATA"))
        custom = dict(metadata["custom_metadata"])
        try:
            score = json.loads(read_bytes(path / "metrics" / "metrics"))[METRIC]
        except FileNotFoundError:
            score = None
        facts = Facts(score, custom.pop(EVAL_PENDING), custom.pop(SECONDS, None))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its metadata are damaged: {first_line(error)}") from error
    # Earlier versions wrote no seal; then there is no other entry either.
    if custom and custom != {SEAL: facts.seal(step)}:
        raise ValueError("the checksum of its metadata differs")
    return facts


def state_digest(state: Any) -> str:
    """Return a digest of the bits of a training state, however it is spread over devices.

    Args:
        state: A nested dict of arrays, as ``flax.serialization.to_state_dict`` makes it.
    """
    whole = hashlib.blake2b(digest_size=8)
    for path, _ in jax.tree_util.tree_leaves_with_path(state):
        whole.update(jax.tree_util.keystr(path).encode())
    whole.update(np.asarray(jax.device_get(checksum(state))).tobytes())
    return whole.hexdigest()


def orbax_path(folder: Path) -> str | Path:
    """The path of a folder for orbax, which takes brackets and stars in it for a pattern.

    orbax merges the files of a save by a glob below the folder. A folder whose path holds such
    characters is given to it as a link in the temporary folder, which stays there.

    Args:
        folder: The folder ``checkpoints/`` of a run; it need not exist.

    Raises:
        UserError: The link cannot be made.
    """
    if is_remote(folder):
        enable_s3()
        return str(folder)
    target = folder.absolute()
    if not glob.has_magic(str(target)):
        return target
    name = hashlib.blake2b(os.fsencode(target), digest_size=16).hexdigest()
    user = _user()
    link = Path(tempfile.gettempdir()) / f"flax_resnet-{user}-{name}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(target, target_is_directory=True)
        except FileExistsError:  # of an earlier run in this folder, or of another process
            if Path(os.readlink(link)) != target or link.lstat().st_uid != user:
                raise
    except OSError as error:
        raise UserError(
            f"{link} cannot be made a link to {target} ({error.strerror or error}), which "
            "checkpoints need where a path holds brackets or stars: choose another --workdir."
        ) from error
    return link


def _user() -> int:
    """Return the number of the user to whom files belong; on Windows it is always 0."""
    if sys.platform == "win32":
        return 0
    return os.getuid()


def read_checkpoint(folder: Path) -> tuple[int, dict[str, Any]]:
    """Read the weights of a run's best checkpoint, or of its newest if none was evaluated.

    Only the weights are read, which are a third of a checkpoint of Adam: the moving average where
    there is one, else the parameters and statistics that train.

    Args:
        folder: The run's ``checkpoints/``, which another process may be writing.

    Returns:
        The step, and the variables ``{"params", "batch_stats"}`` as NumPy arrays.

    Raises:
        UserError: The folder holds no checkpoint, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"There are no checkpoints in {folder.parent}: is it a run's folder?")
    attempts = MOST_ATTEMPTS
    while True:
        attempts -= 1
        checkpoint, steps = folder, checkpoint_steps(folder)
        try:
            # All of them, so that a damaged score does not choose another checkpoint.
            scores = {}
            for step in steps:
                checkpoint = folder / str(step)
                scores[step] = read_facts(folder, step).score
            if not scores:
                raise UserError(f"{folder} holds no finished checkpoint: train the run first.")
            step = max(scores, key=lambda step: (_rank(scores[step]), step))
            checkpoint = folder / str(step)
            with _open(folder) as manager:
                return step, _restore_variables(manager, step)
        except UserError:
            raise
        except Exception as error:  # orbax raises many kinds, none of them for a user
            if attempts and steps != checkpoint_steps(folder):
                continue  # the run trains, and has removed a checkpoint meanwhile
            raise UserError(
                f"The checkpoint {checkpoint} cannot be read ({first_line(error)}): `flax-resnet "
                f"checkpoints {folder.parent} --prune` removes it, the training command goes on "
                "from the one before it."
            ) from error


def read_tree(folder: Path, step: int) -> dict[str, Any]:
    """Read all that a checkpoint holds, as NumPy arrays, and check it; nothing is written.

    Args:
        folder: The run's ``checkpoints/``.
        step: The step of the checkpoint.

    Raises:
        UserError: The checkpoint is damaged.
    """
    import orbax.checkpoint as ocp

    try:
        read_facts(folder, step)
        with _open(folder) as manager:
            described = dict(manager.item_metadata(step).tree)
            item = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), described
            )
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
            restored: dict[str, Any] = manager.restore(
                step, args=ocp.args.PyTreeRestore(item=item, restore_args=arguments)
            )
        if not np.array_equal(restored.pop(CHECKSUM), checksum(restored)):
            raise ValueError("its checksum differs")
    except Exception as error:  # orbax raises many kinds, none of them for a user
        raise UserError(
            f"The checkpoint {folder / str(step)} is damaged: {first_line(error)}."
        ) from error
    return restored


def _open(folder: Path) -> Any:
    """Open a folder of checkpoints for reading, by this process alone."""
    # Here and not above: the import takes a second, which finished runs do not need.
    import orbax.checkpoint as ocp

    hide_further_failures()
    options = ocp.CheckpointManagerOptions(
        read_only=True,
        create=False,
        save_interval_steps=0,
        temporary_path_class=committed_by(folder),
        # Each process of a pod reads for itself.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"read_checkpoint_{jax.process_index()}",
        ),
    )
    return ocp.CheckpointManager(
        orbax_path(folder), options=options, item_handlers=ocp.PyTreeCheckpointHandler()
    )


def _rank(score: float | None) -> float:
    """A number that orders scores: none is below any."""
    return -math.inf if score is None or math.isnan(score) else score


def _restore_variables(manager: Any, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    described = dict(manager.item_metadata(step).tree)
    saved_checksum = described.pop(CHECKSUM)
    state = described["state"]
    weights = state["ema"] if state.get("ema") else state
    weights = {kind: weights[kind] for kind in ("params", "batch_stats") if weights.get(kind)}
    wanted = {"state": {"ema": weights} if state.get("ema") else weights}

    item = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        wanted | {CHECKSUM: saved_checksum},
    )
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    restored = manager.restore(
        step,
        args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True),
    )
    expected = restored.pop(CHECKSUM)
    # The saved checksum has a number for each leaf of the whole tree.
    every, some = (
        [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        for tree in (described, restored)
    )
    index = {path: i for i, path in enumerate(every)}
    if not np.array_equal(expected[[index[path] for path in some]], checksum(restored)):
        raise ValueError("its checksum differs")
    state = restored["state"]
    return {"batch_stats": {}} | state.get("ema", state)


# Over all arrays of a state at each save: loops without any optimisation take five times as long.
LOOP_COMPILATION = {"xla_backend_optimization_level": 1}


@partial(jax.jit, compiler_options=LOOP_COMPILATION)
def checksum(tree: Any) -> jax.Array:
    """Compute a number for each leaf that any changed bit changes, uint32 ``[leaves]``.

    It is the sum of the leaf's words, each times an odd number that depends on its index, modulo
    2**32: the same however the leaf is spread over devices. Orbax itself restores a damaged file
    without an error.
    """
    return jnp.stack([_leaf_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _leaf_checksum(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    word = jnp.dtype(f"uint{min(8 * leaf.dtype.itemsize, 32)}")
    words = lax.bitcast_convert_type(leaf, word).astype(jnp.uint32)
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = index * size + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words * (2 * index + 1), dtype=jnp.uint32)
