"""Stopping on a signal: after the current step, at the same step in every process."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils
from rich.console import Console
from rich.text import Text


class Stopped(Exception):
    """Raised where an evaluation is abandoned because the run is to stop."""


class StopRequest:
    """Whether the run is to stop; every process polls it after the same steps and batches."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._polls = 0
        self._agreed = False

    def request(self) -> None:
        """Request a stop, at the next point that all processes agree on."""
        self._requested.set()

    def poll(self) -> bool:
        """Whether to stop here; once True, always True."""
        if not self._agreed:
            self._polls += 1
            if jax.process_count() == 1:
                self._agreed = self._requested.is_set()
            else:
                # JAX forwards the signal that one process received, and picks a point that no
                # process has passed yet.
                self._agreed = multihost_utils.reached_preemption_sync_point(self._polls)
        return self._agreed


@contextmanager
def stop_on_signal(console: Console) -> Iterator[StopRequest]:
    """A stop request that SIGINT and SIGTERM set; a second SIGINT interrupts as usual.

    Args:
        console: Where the signal is reported.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python allows only the main thread to handle signals
        return
    alone = jax.process_count() == 1

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        if alone:
            stop.request()
        else:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's preemption service handles it
        # A Text needs no import, which the signal may have interrupted.
        console.print(Text(f"{signal.Signals(number).name}: finishing the step and saving."))

    # With several processes JAX's preemption service handles SIGTERM and notifies the others.
    signals = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
