"""Stopping on a signal: after the step under way, at the same one in every process."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils
from rich.console import Console


class Stopped(Exception):
    """An evaluation was broken off because the run is to stop."""


class StopRequest:
    """Whether the run is to stop. Every process polls it at the same points: steps and batches."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._polls = 0
        self._agreed = False

    def ask(self) -> None:
        """Stop at the next point that all processes agree on."""
        self._asked.set()

    def poll(self) -> bool:
        """Whether this is the point to stop at; True ever after."""
        if not self._agreed:
            self._polls += 1
            if jax.process_count() == 1:
                self._agreed = self._asked.is_set()
            else:
                # JAX passes one process's notice on, and picks a point that none has passed yet.
                self._agreed = multihost_utils.reached_preemption_sync_point(self._polls)
        return self._agreed


@contextmanager
def stop_on_signal(console: Console) -> Iterator[StopRequest]:
    """A request that SIGINT and SIGTERM make; a second SIGINT interrupts as usual."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    alone = jax.process_count() == 1

    def handle(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        if alone:
            stop.ask()
        else:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX's preemption service listens to
        console.print(f"{signal.Signals(number).name}: finishing the step and saving.")

    # Among several processes SIGTERM is the preemption service's: it tells the others.
    signals = (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
