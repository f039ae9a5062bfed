"""The processes of a run on several hosts: how they connect, and how a lost one is noticed."""

import ctypes
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax
import numpy as np
from jax.experimental import multihost_utils

from ..config import ParallelConfig
from ..errors import UserError
from ..jax_internals import coordination_client

LOST = (
    "error: another process of this run is gone (killed, or its host or the network is down), so "
    "this one stops too. The last checkpoint is kept: start all processes again to resume from it."
)

ANSWER_SECONDS = 2  # in which a healthy coordination service answers

_BARRIERS = itertools.count()  # each has a name of its own, the same in all processes

# Words in errors of collectives, barriers and checkpoints that a lost process causes.
SIGNS = ("gloo", "nccl", "peer", "unavailable", "deadline")


def connect(config: ParallelConfig) -> None:
    """Connect to the other processes, if there are any; call it before JAX's devices are used.

    ``coordinator``, ``processes`` and ``process`` describe them; without these, JAX detects a TPU
    pod, SLURM, Open MPI or a Kubernetes job.

    Raises:
        UserError: the settings are incomplete, or the others cannot be reached in time.
    """
    explicit = (config.coordinator, config.processes, config.process)
    if any(value is not None for value in explicit) and None in explicit:
        raise UserError(
            "--parallel.coordinator, --parallel.processes and --parallel.process go together: "
            "give all three, or none to have them detected.",
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
            return  # nothing was detected: there is one process
        raise UserError(f"The processes of this run cannot be set up: {error}") from error
    except RuntimeError as error:
        if "before any JAX" in str(error) and config.coordinator is None:
            return  # the program around us has used the devices already
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"The other processes of this run were not reached in {config.timeout} s ({reason}): "
            "start as many as --parallel.processes or the scheduler says, with the same "
            "coordinator; --parallel.distributed off runs this one alone."
        ) from error


def wait_for_processes() -> None:
    """Wait until all processes of the run are here; call it before their first collective.

    Gloo gives up if one reaches that 30 s after another, of which one may just have read its data
    more slowly. A process that is lost meanwhile is noticed by ``watch_peers``.
    """
    client = coordination_client()
    if client is not None and jax.process_count() > 1:
        client.wait_at_barrier(f"flax_resnet/{next(_BARRIERS)}", timeout_in_ms=86_400_000)


def _may_come_from_a_lost_process(error: BaseException | None) -> bool:
    """Whether the error, or one that it was raised from, reads as if a process were lost: a save
    that fails for it ends in a sentence about the checkpoint."""
    while error is not None:
        if not isinstance(error, UserError) and any(sign in str(error).lower() for sign in SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def watch_peers(timeout: int) -> Iterator[None]:
    """While several processes run, end this one with an error message once another is lost.

    JAX notices the loss, of process 0 at once and of another by its missing heartbeat, and aborts
    from its own thread, which no Python code can catch. So a handler of the abort prints the
    message.

    Args:
        timeout: Seconds after which a process without a heartbeat counts as lost.
    """
    client = coordination_client()
    if client is None or jax.process_count() == 1 or sys.platform == "win32":
        yield
        return

    def service_answers() -> bool:
        answered = threading.Event()

        def ask() -> None:
            with suppress(Exception):
                client.key_value_dir_get("flax_resnet")
                answered.set()

        # While JAX aborts because of a lost process it holds the client's lock, and the service
        # does not answer.
        threading.Thread(target=ask, daemon=True).start()
        return answered.wait(ANSWER_SECONDS)

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def in_abort(_: int) -> None:
        signal.alarm(10 * ANSWER_SECONDS)  # ends the process if Python itself hangs
        if not service_answers():
            os.write(sys.__stderr__.fileno(), f"{LOST}\n".encode())  # type: ignore[union-attr]
            os._exit(1)  # a normal exit would wait for the lost process
        signal.alarm(0)  # an abort for another reason continues

    # signal.signal would run the handler in the main thread, later or never.
    install = ctypes.CDLL(None).signal
    install.restype, install.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = install(signal.SIGABRT, ctypes.cast(in_abort, ctypes.c_void_p))
    try:
        yield
    except Exception as error:
        if _may_come_from_a_lost_process(error):
            time.sleep(timeout + 10)  # by then JAX has noticed and aborted
        raise
    finally:
        install(signal.SIGABRT, before)


@contextmanager
def primary_decides() -> Iterator[None]:
    """Raise an error that the body, which process 0 alone runs to some effect, raises there in all.

    The others would otherwise wait for a process that is gone.

    Raises:
        UserError: That of process 0.
    """
    if jax.process_count() == 1:
        yield
        return
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    text = np.zeros(1000, np.uint8)
    if failure is not None:
        encoded = np.frombuffer(str(failure).encode()[: len(text)], np.uint8)
        text[: len(encoded)] = encoded
    text = np.asarray(multihost_utils.broadcast_one_to_all(text))
    if failure is not None:
        raise failure
    if text.any():
        raise UserError(bytes(text).rstrip(b"\0").decode(errors="ignore"))


def gather_texts(text: str) -> list[str]:
    """The text of each process, in every process; all of them must call it."""
    if jax.process_count() == 1:
        return [text]
    encoded = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array(len(encoded), np.int32)))
    # Arrays of the same shape, as a collective needs them, and not empty.
    row = np.zeros(max(int(lengths.max()), 1), np.uint8)
    row[: len(encoded)] = encoded
    rows = np.asarray(multihost_utils.process_allgather(row))
    return [bytes(one[:length]).decode() for one, length in zip(rows, lengths, strict=True)]


def true_in_all(values: np.ndarray) -> np.ndarray:
    """Where an array of truths is true in every process; all of them must call it."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values)).all(0)


def all_agree(value: bool) -> bool:
    """Whether a value is true in every process."""
    return bool(true_in_all(np.array(value)))
