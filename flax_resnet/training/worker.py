"""A thread that runs one call after another, each with a deadline."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Worker:
    """The thread. It ends with the process, also where a call hangs.

    One thread runs all calls, because orbax raises the error of a save once in each thread.
    """

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def run(self, call: Callable[[], Any], seconds: float) -> None:
        """Run a call and wait for it.

        Raises:
            TimeoutError: It takes longer; it goes on.
            Exception: That of the call.
        """
        future: Future[Any] = Future()
        self._calls.put((call, future))
        future.result(seconds)

    def close(self) -> None:
        """End the thread after the calls before."""
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except BaseException as error:  # for the caller
                future.set_exception(error)
