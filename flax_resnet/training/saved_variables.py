"""The variables of a finished run, read from the files that orbax wrote.

To predict, a process needs a third of what a checkpoint of Adam holds, and needs it soon: importing
orbax and asking it for the arrays takes a second, reading them by tensorstore as here a quarter.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from flax import traverse_util

from ..errors import UserError

METRIC = "score"
CHECKSUM = "checksum"

TreePath = tuple[str, ...]


def read_variables(folder: Path) -> tuple[int, dict[str, Any]]:
    """The step and the variables of a run's best checkpoint, or of its newest where none was
    evaluated: the moving average where there is one, on one device.

    Args:
      folder: the run's ``checkpoints/``, see :class:`checkpoint.Checkpoints`.

    Raises:
      UserError: there is no checkpoint in the folder, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"There are no checkpoints in {folder.parent}: is it a run's folder?")
    # Orbax gives a folder its number when all is written.
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    if not steps:
        raise UserError(f"{folder} holds no finished checkpoint: train the run first.")
    step = max(steps, key=lambda step: (_score(folder / str(step)), step))
    try:
        return step, _read(folder.absolute() / str(step) / "default")
    except Exception as error:  # tensorstore raises many kinds, none of them for a user
        raise UserError(
            f"The checkpoint {folder / str(step)} cannot be read ({first_line(error)}): "
            "train again, or copy the run's folder afresh."
        ) from error


def _score(checkpoint: Path) -> float:
    try:
        score = float(json.loads((checkpoint / "metrics" / "metrics").read_text())[METRIC])
    except (OSError, ValueError, KeyError, TypeError):
        return -math.inf  # it was not evaluated
    return -math.inf if math.isnan(score) else score


def _read(folder: Path) -> dict[str, Any]:
    described = json.loads((folder / "_METADATA").read_text())
    driver = "zarr3" if described["use_zarr3"] else "zarr"
    leaves = sorted(_leaves(described))
    averaged = any(path[:2] == ("state", "ema") for path in leaves)
    above = ("state", "ema") if averaged else ("state",)
    kinds = [(*above, kind) for kind in ("params", "batch_stats")]
    wanted = [path for path in leaves if path[: len(above) + 1] in kinds or path == (CHECKSUM,)]
    opened = [tensorstore.open(_where(folder, driver, path), open=True) for path in wanted]
    reading = [one.result().read() for one in opened]
    arrays = dict(zip(wanted, (one.result() for one in reading), strict=True))
    expected = arrays.pop((CHECKSUM,), None)  # not where convert wrote the run
    if expected is not None:
        place = {path: i for i, path in enumerate(path for path in leaves if path != (CHECKSUM,))}
        for path, array in arrays.items():
            if expected[place[path]] != checksum_on_host(array):
                raise ValueError("its checksum differs")
    tree = traverse_util.unflatten_dict({path[len(above) :]: arrays[path] for path in arrays})
    variables = {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}
    return jax.device_put(variables, jax.local_devices()[0])


def _leaves(described: dict[str, Any]) -> Iterator[TreePath]:
    """Paths of the arrays; empty nodes are listed too."""
    for entry in described["tree_metadata"].values():
        if entry["value_metadata"]["value_type"] not in ("Dict", "List", "Tuple", "None"):
            yield tuple(key["key"] for key in entry["key_metadata"])


def _where(folder: Path, driver: str, path: TreePath) -> dict[str, Any]:
    store = {"driver": "ocdbt", "base": folder.as_uri(), "path": ".".join(path) + "/"}
    return {"driver": driver, "kvstore": store}


def checksum_on_host(array: np.ndarray) -> int:
    """:func:`checkpoint.checksum` of one leaf, without a compiler."""
    size = min(array.dtype.itemsize, 4)
    words = np.ascontiguousarray(array).reshape(-1).view(f"u{size}").astype(np.uint32, copy=False)
    odd = 2 * np.arange(len(words), dtype=np.uint32) + np.uint32(1)
    return int(np.dot(words, odd))


def first_line(error: Exception) -> str:
    """What an error of a library says, in short."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
