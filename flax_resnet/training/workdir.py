"""A run's folder: whether it holds the same run, and the files that describe it."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from ..config import EFFECTS, Config, flatten, with_defaults
from ..data.fingerprint import FILE, Fingerprint, differences, fingerprint, read_fingerprint
from ..errors import UserError
from ..models import stage_of
from ..report.trackers import FILES as TRACKER_FILES
from ..storage import delete, is_remote, locate, read_bytes
from ..text_files import parse_json
from ..weights import (
    CHECKSUMS,
    RUN_WEIGHTS,
    check_sealed,
    description,
    newest_checkpoint,
    write_sealed,
)
from ..weights.formats.checkpoint import bring_back_pending
from .distributed import primary_decides
from .lock import Lock
from .object_lock import take_lock
from .run import Run
from .state import TrainState

CONFIG = "config.json"
START = "transfer.weights_digest"  # an entry of config.json that is no setting

# All that a run writes; anything else in its folder is kept when the run is deleted.
_FILES = (
    *(CHECKSUMS, CONFIG, FILE, "classes.json", "class_indices.json", "preprocessing.json"),
    *("history.jsonl", "checkpoints", RUN_WEIGHTS, "report", "debug", "trace"),
    *TRACKER_FILES,
)


def workdir_of(config: Config) -> Path:
    """Return the run's folder, which need not exist."""
    return locate(config.workdir or "runs/run")


@contextmanager
def lock_workdir(config: Config) -> Iterator[Lock | None]:
    """Hold the lock of the run's folder, which is made; the processes of a run share the lock.

    Yields:
        The lock in process 0, None in the others.

    Raises:
        UserError: Another command uses the folder, which is as it was.
    """
    lock = None
    with primary_decides():
        if jax.process_index() == 0:
            lock = take_lock(workdir_of(config), "train")
            bring_back_pending(workdir_of(config) / "checkpoints")
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def open_workdir(run: Run, state: TrainState) -> Path:
    """Write what describes the run into its folder.

    That is ``config.json``, ``data.json`` (``data.fingerprint``), the classes and the transform. Of
    several processes the first one writes.

    Args:
        run: The run.
        state: The state before the first step, in this process.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds the weights that the run starts from, or a run with other
            settings or other data (each difference is named), and is as it was; or it cannot be
            written.
    """
    config, is_primary = run.config, jax.process_index() == 0
    workdir = workdir_of(config)
    if _starts_from(run, workdir):
        raise UserError(
            f"{workdir} holds the weights that this run starts from, {config.transfer.weights}: "
            "choose another --workdir."
        )
    settings = flatten(config) | {START: _start_digest(run, state)}
    try:
        check_sealed(workdir)
        conflicts = list(_setting_conflicts(workdir, run, settings))
    except UserError as error:
        if not config.overwrite:
            raise
        conflicts = [str(error)]
    with primary_decides():
        data = fingerprint(run.dataset, config.data.dir) if is_primary else None
        if data is not None and not conflicts:
            conflicts += _data_conflicts(workdir, data)
        if conflicts and not config.overwrite:
            raise UserError(
                f"{workdir} holds another run: {'; '.join(conflicts)}. Choose another --workdir, "
                "or add --overwrite to delete that run and train again."
            )
        if data is not None:
            try:
                if conflicts:
                    _delete_run(workdir)
                files = {CONFIG: settings, FILE: data.to_json()}
                write_sealed(workdir, files | description(run.dataset.classes, run.transform))
            except OSError as error:
                raise UserError(
                    f"The run's folder {workdir} cannot be written: {error}."
                ) from error
    if jax.process_count() > 1:  # the others look for checkpoints that the first one deletes
        multihost_utils.sync_global_devices("open_workdir")
    return workdir


def _starts_from(run: Run, workdir: Path) -> bool:
    """Return whether a run starts from what another one wrote into its own folder."""
    if run.start is None:
        return False
    path = locate(run.config.transfer.weights)
    if not is_remote(path):  # it may be the name of published weights, which are elsewhere
        path = run.start.info.path or path
    if is_remote(path) != is_remote(workdir):
        return False
    start, folder = (one if is_remote(one) else one.resolve() for one in (path, workdir))
    return start == folder or any(start.is_relative_to(folder / name) for name in _FILES)


def _start_digest(run: Run, state: TrainState) -> str | None:
    """Return a hash of the arrays that a run takes from its starting weights; not of the head."""
    if run.start is None:
        return None
    whole, stages = hashlib.blake2b(digest_size=16), run.model.stages
    variables = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    for path, array in sorted(traverse_util.flatten_dict(variables).items()):
        if stage_of(path[1], stages[-2]) != stages[-1]:
            whole.update(f"{path} {array.dtype} {array.shape}".encode())
            whole.update(array.tobytes())
    return whole.hexdigest()


def _setting_conflicts(workdir: Path, run: Run, now: Mapping[str, Any]) -> Iterator[str]:
    """Describe the settings that differ from those of the run in a folder and decide numbers."""
    before = _read(workdir / CONFIG)
    if before is None:
        return
    if not isinstance(before, dict):
        raise UserError(f"{workdir / CONFIG} holds no settings: choose another --workdir.")
    stored = with_defaults(before)
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = stored.get(name), now.get(name)
        if old == new or EFFECTS.get(name, "numbers") != "numbers":
            continue
        if name == START:
            weights = "transfer.weights"
            if START in before and before.get(weights) == now[weights]:
                yield f"{now[weights]} held other weights when it started"
        elif name != "epochs":
            yield f"{name} was {old!r}, is now {new!r}"
        elif reason := _obstacle_to_epochs(run, old, newest_checkpoint(workdir), workdir):
            yield f"epochs was {old!r}, is now {new!r}, {reason}"


def _obstacle_to_epochs(run: Run, epochs: Any, steps: int, workdir: Path) -> str | None:
    """Return why a run of so many epochs cannot go on with another number; None if it can.

    It can where its steps would have been the same: where their learning rates do not depend on the
    end of training, and the same stages trained.

    Args:
        run: The run with the new number of epochs.
        epochs: The former number.
        steps: Steps done.
        workdir: The run's folder.
    """
    if run.solver == "lbfgs":  # there are no epochs
        return None
    if steps > run.total_steps:
        return f"of which it has done more ({steps:,} of {run.total_steps:,} steps)"
    before = run.with_epochs(epochs)
    done = jnp.arange(max(steps, 0))
    rates = [np.broadcast_to(one.schedule(done), done.shape) for one in (before, run)]
    phases = [[phase for phase in one.phases if phase.first_step < steps] for one in (before, run)]
    if np.array_equal(rates[0], rates[1]) and phases[0] == phases[1]:
        return None
    return (
        "which changes steps that are done, because schedule "
        f"{run.config.optimizer.schedule} and mode {run.config.transfer.mode} follow the epochs "
        f"(to train further from its weights, start another run: finetune --weights {workdir}, or "
        f"train --transfer.weights {workdir})"
    )


def _data_conflicts(workdir: Path, data: Fingerprint) -> list[str]:
    """Describe the differences from the data that a folder's weights were trained on."""
    if newest_checkpoint(workdir) < 0 and not (workdir / RUN_WEIGHTS).exists():
        return []
    before = read_fingerprint(workdir)
    if before is not None:
        return differences(before, data)
    classes = _read(workdir / "classes.json")  # of a run that did not know its files yet
    if classes is not None and tuple(classes) != data.classes:
        return [f"its classes are {', '.join(map(str, classes))}"]
    return []


def read_settings(workdir: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder, by dotted name.

    Raises:
        UserError: The folder is not a run's, or the file is damaged.
    """
    settings = _read(workdir / CONFIG)
    if not isinstance(settings, dict):
        raise UserError(f"{workdir} is not a run's folder: {CONFIG} is missing or no settings.")
    return settings


def _read(path: Path) -> Any:
    """Return the value of a JSON file, or None if there is no such file."""
    try:
        return parse_json(read_bytes(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not readable as JSON ({error}): choose another --workdir."
        ) from error


def _delete_run(workdir: Path) -> None:
    for name in _FILES:
        delete(workdir / name)
