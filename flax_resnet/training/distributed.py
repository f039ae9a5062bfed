"""The processes of a run on several hosts: finding each other, and noticing when one is gone."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax._src import distributed  # its client has no public name

from ..config import ParallelConfig
from ..errors import UserError

LOST = (
    "error: another process of this run is gone (killed, or its host or the network is down), so "
    "this one stops too. The last checkpoint is kept: start all processes again to go on from it."
)

PROBE_SECONDS = 1.0  # below the six that an aborting thread sleeps, see watch_peers


def connect(config: ParallelConfig) -> None:
    """Join the other processes, if there are any; to be called before JAX's devices are used.

    With ``coordinator``, ``processes`` and ``process`` the run is of these; otherwise JAX looks for
    a TPU pod, SLURM, Open MPI or a Kubernetes job around it.

    Raises:
      UserError: the settings are incomplete, or the others cannot be reached in time.
    """
    explicit = (config.coordinator, config.processes, config.process)
    if any(value is not None for value in explicit) and None in explicit:
        raise UserError(
            "--parallel.coordinator, --parallel.processes and --parallel.process go together: "
            "give all three, or none to have them found.",
            exit_code=2,
        )
    if config.distributed == "off" or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            initialization_timeout=config.timeout,
            heartbeat_timeout_seconds=config.timeout,
            shutdown_timeout_seconds=config.timeout,
        )
    except ValueError as error:
        if config.coordinator is None and "coordinator_address" in str(error):
            return  # nothing was found: one process
        raise UserError(f"The processes of this run cannot be set up: {error}") from error
    except RuntimeError as error:
        if "before any JAX" in str(error) and config.coordinator is None:
            return  # a library user's devices are in use already
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"The other processes of this run were not reached in {config.timeout} s ({reason}): "
            "start as many as --parallel.processes or the scheduler says, with the same "
            "coordinator; --parallel.distributed off runs this one alone."
        ) from error


@contextmanager
def watch_peers(timeout: int) -> Iterator[None]:
    """While several processes run, end this one with a sentence once another is gone.

    JAX would abort it from a thread of its own, or a collective would raise or wait for ever.
    """
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    processes = list(range(jax.process_count()))

    def all_live() -> bool:  # waits for every living process to ask the same
        return len(client.get_live_nodes(processes)) == len(processes)

    def coordinator_answers() -> bool:
        client.key_value_dir_get("flax_resnet")
        return True

    def watch(probe: Callable[[], bool]) -> None:
        while not done.wait(PROBE_SECONDS):
            try:
                fine = probe()
            except Exception:  # of many kinds, all of a coordinator that is gone
                fine = False
            if not fine and not done.is_set():
                sys.stdout.flush()
                print(LOST, file=sys.stderr, flush=True)
                os._exit(1)  # a normal exit would wait for the lost one

    for probe in (all_live, coordinator_answers):
        thread = threading.Thread(target=watch, args=(probe,), daemon=True)
        thread.start()
    # Where JAX aborts first, the aborting thread sleeps as many seconds as the signal's number, 6,
    # in which the watcher comes to its sentence.
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, libc.sleep)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # A lost process shows in many ways; the watcher knows, at the latest after the time-out.
        lost = any(sign in str(error) for sign in ("peer", "loo", "NCCL", "UNAVAILABLE"))
        thread.join(timeout + 10 if lost else 5)
        raise
    finally:
        done.set()
