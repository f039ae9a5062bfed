"""Start the processes of a run on one machine, and end them together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import IO

from ..errors import UserError

GRACE_SECONDS = 10.0  # in which the others may end by themselves after one has failed
WRONG_USAGE = 2  # the exit code, which all processes have then
_LOCAL = "127.0.0.1"


def launch(words: Sequence[str], processes: int) -> int:
    """Run a command in several processes of this machine, which train together.

    Process 0 writes to the terminal; of the others the last line is reported if they fail. On GPUs
    each process has the GPU of its number. SIGINT and SIGTERM are passed on to all, which then save
    and end, and so is SIGHUP, which ends them at once. If a process fails, the others are ended
    too: any checkpoint is whole.

    Args:
        words: The command and its options, such as ``["train", "--config", "digits"]``.
        processes: Their number.

    Returns:
        The exit code: 0, or that of process 0 where it has reported why.

    Raises:
        UserError: Another process failed first.
    """
    joint = ["--parallel.coordinator", f"{_LOCAL}:{_free_port()}"]
    joint += ["--parallel.processes", str(processes), "--parallel.process"]
    with ExitStack() as files:
        outputs: list[IO[bytes] | None] = [None]
        outputs += [files.enter_context(tempfile.TemporaryFile()) for _ in range(processes - 1)]
        children: list[subprocess.Popen[bytes]] = []
        try:
            with _passed_on(children):  # before the first starts, which would outlive a signal
                for index, output in enumerate(outputs):
                    child = subprocess.Popen(
                        [sys.executable, "-m", "flax_resnet", *words, *joint, str(index)],
                        env=_environment(index),
                        stdout=output,
                        stderr=output,
                        start_new_session=True,  # a Ctrl-C reaches them once, from here
                    )
                    children.append(child)
                failed = _first_failure(children)
        finally:
            for child in children:
                child.kill()
                child.wait()
        if failed is None:
            return 0
        code = children[failed].returncode
        is_reported = failed == 0 and code > 0
        if is_reported or code == children[0].returncode == WRONG_USAGE:
            return code
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise UserError(
            f"Process {failed} of {processes} ended with {how}{_last_line(outputs[failed])}",
            exit_code=max(code, 1),
        )


def _environment(index: int) -> dict[str, str]:
    """Return the variables of a process: its GPU, and no proxy between it and the others."""
    found = os.environ | {"JAX_LOCAL_DEVICE_IDS": str(index)}
    for name in ("no_proxy", "NO_PROXY"):
        found[name] = ",".join(filter(None, (os.environ.get(name), _LOCAL, "localhost")))
    return found


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_LOCAL, 0))
        return int(one.getsockname()[1])


@contextmanager
def _passed_on(children: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass signals on to the processes that still run."""

    def handle(number: int, _: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)  # does nothing once it has ended

    signals = [signal.SIGINT, signal.SIGTERM]
    # Of a terminal that closes; nohup has it ignored, also by the processes. Windows has none.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        signals.append(hangup)
    before = {one: signal.signal(one, handle) for one in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_failure(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended, or ``GRACE_SECONDS`` after one has failed, and return which."""
    failed, failed_at = None, 0.0
    while None in [child.poll() for child in children]:
        if failed is None:
            failed, failed_at = _failure(children), time.monotonic()
        elif time.monotonic() - failed_at > GRACE_SECONDS:
            break
        time.sleep(0.05)
    return _failure(children) if failed is None else failed


def _failure(children: Sequence[subprocess.Popen[bytes]]) -> int | None:
    return next((index for index, child in enumerate(children) if child.returncode), None)


def _last_line(output: IO[bytes] | None) -> str:
    if output is None:
        return "."
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else "."
