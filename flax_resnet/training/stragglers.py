"""Which process of a run is slow.

The collectives of a step make all processes wait for the slowest, so a step takes the same time in
all of them. What differs is the time that a process spends by itself before it starts the step, and
how fast its devices compute where nothing is exchanged.
"""

import time
from collections.abc import Iterable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..report import Entry
from ..report.page_tables import slowest

TRIES = 3


def process_times(host_seconds: float) -> Entry:
    """Gather the times of all processes, and return the keys of a line of the history for them.

    Args:
        host_seconds: Those that this process spent by itself, a step.

    Returns:
        ``host_seconds``, the median of the processes, ``slowest_host_seconds``, and
        ``slowest_host``, the number of the process that took them; the same of ``device`` for
        ``device_seconds``. Nothing where there is one process.
    """
    if jax.process_count() == 1:
        return {}
    times = np.array([host_seconds, device_seconds()], np.float32)
    hosts, devices = np.asarray(multihost_utils.process_allgather(times)).T
    return slowest_of("host", hosts) | slowest_of("device", devices)


def slowest_of(name: str, seconds: np.ndarray[Any, Any]) -> Entry:
    """Return the median of the processes' seconds, the largest, and the process that took it."""
    return {
        f"{name}_seconds": round(float(np.median(seconds)), 6),
        f"slowest_{name}_seconds": round(float(seconds.max()), 6),
        f"slowest_{name}": int(seconds.argmax()),
    }


def slowest_text(history: Iterable[Entry]) -> str:
    """Return a sentence on the slowest processes at the last evaluation; empty with one process."""
    entry = next((line for line in reversed([*history]) if "slowest_host" in line), None)
    if entry is None:
        return ""
    return (
        f"Slowest at the last evaluation: in its own input and code {slowest(entry, 'host')} a "
        f"step; in a fixed product of matrices on its devices {slowest(entry, 'device')}."
    )


def device_seconds() -> float:
    """Return the seconds of the slowest device of this process for a fixed product of matrices."""
    size = 256 if jax.default_backend() == "cpu" else 2048
    found = []
    for device in jax.local_devices():
        matrix = jax.device_put(np.full((size, size), 1 / size, np.float32), device)
        jax.block_until_ready(_product()(matrix))  # compiled when it is first called
        tries = []
        for _ in range(TRIES):
            began = time.perf_counter()
            jax.block_until_ready(_product()(matrix))
            tries.append(time.perf_counter() - began)
        found.append(min(tries))
    return max(found)


@cache
def _product() -> Any:
    return jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda _, y: y @ x, x))
