"""The lock of a run's folder: one job at a time writes there.

The file ``.lock`` names the owner: its job, host, process, and when it started; its time of change
is the owner's heartbeat. ``flock`` guards each change of it, so that of many commands that start at
once one wins. A lock is stale, and is taken over, when its process is gone, which can be seen on
the same host, or when its heartbeat has stopped for ``STALE_SECONDS``, by the clock of the file
system. ``object_lock`` has the lock of a folder in object storage. Windows and some network file
systems have no ``flock``: of commands that start there in the same instant, more than one may go
on.
"""

import errno
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError

FILE = ".lock"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
GUARD_SECONDS = 20.0  # after which a change of the lock by another process counts as hanging


@dataclass(frozen=True)
class Owner:
    """The owner of a folder.

    Attributes:
        job: What it does, such as ``train``.
        host: The host's name.
        system: Identifies the running system, and the container, in which ``pid`` counts.
        pid: The process.
        born: When the process started, in the system's clock ticks; a later process of the same
            number has another.
        started: When it took the lock, in seconds since 1970.
        token: A random text that no other owner has.
    """

    job: str
    host: str
    system: str
    pid: int
    born: str
    started: float
    token: str

    @classmethod
    def this_process(cls, job: str) -> "Owner":
        """Return the owner that this process is."""
        pid = os.getpid()
        return cls(
            job, socket.gethostname(), _system(), pid, _born(pid), time.time(), secrets.token_hex(8)
        )

    def is_gone(self) -> bool | None:
        """Whether the owner's process has ended; None where that cannot be seen from here."""
        here = _system()
        if not here or (self.host, self.system) != (socket.gethostname(), here):
            return None
        return _born(self.pid) != self.born

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started))
        return f"process {self.pid} on {self.host} ({self.job}, since {when})"


class Lock:
    """The lock of a folder, held from ``__init__`` until ``release``."""

    def __init__(self, folder: Path, job: str) -> None:
        """Take the lock of ``folder``, which is made.

        Raises:
            UserError: Another process holds it, or the folder cannot be written.
        """
        self._path = folder / FILE
        self.owner = Owner.this_process(job)
        self.replaced = self._take(folder)
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            UserError: Another process has taken it over, because the heartbeat had stopped.
        """
        now = self._read()
        if now is None or now.token != self.owner.token:
            by = f"taken over by {now}" if now else "removed"
            raise UserError(
                f"The lock {self._path} was {by} while this process did not run: it stops and "
                "writes nothing more."
            )

    def release(self) -> None:
        """Give the lock back; a lock that another process has taken over stays."""
        self._ended.set()
        self._give_back()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            self._renew()

    def _take(self, folder: Path) -> Owner | None:
        """Write this owner into the lock, and return the stale one before it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _guarded(self._path) as file:
                before = read_owner(file.read())
                if before is not None:
                    check_stale(folder, before, partial(_age, folder, self._path))
                _write_owner(file, self.owner)
        except OSError as error:
            raise UserError(
                f"The run's folder {folder} cannot be written ({error.strerror or error})."
            ) from error
        return before

    def _read(self) -> Owner | None:
        return _owner_in(self._path)

    def _renew(self) -> None:
        with suppress(OSError):
            now = self._read()
            if now is not None and now.token == self.owner.token:
                os.utime(self._path)  # without times: that of the file server

    def _give_back(self) -> None:
        with suppress(OSError), _guarded(self._path) as file:
            now = read_owner(file.read())
            if now is not None and now.token == self.owner.token:
                file.truncate(0)  # Windows removes no file that is open
                self._path.unlink()


def owner_of(folder: Path) -> Owner | None:
    """Return the owner of a folder's lock if there is one and it is not stale."""
    path = folder / FILE
    owner = _owner_in(path)
    if owner is None:
        return None
    gone = owner.is_gone()
    with suppress(OSError):
        if gone is None:
            gone = _age(folder, path) > STALE_SECONDS
    return None if gone else owner


def check_stale(folder: Path, owner: Owner, age_of: Callable[[], float]) -> None:
    """Raise a UserError unless the owner's lock is stale.

    Args:
        folder: The folder.
        owner: Its owner.
        age_of: Returns the seconds since the owner's heartbeat.
    """
    gone = owner.is_gone()
    heartbeat = ""
    if gone is None:
        age = age_of()
        gone = age > STALE_SECONDS
        heartbeat = (
            f"; its last sign of life was {max(age, 0):.0f} s ago, and after {STALE_SECONDS:.0f} s "
            "without one the folder is free"
        )
    if not gone:
        raise UserError(
            f"{folder} is in use by {owner}{heartbeat}: stop that command, or choose another "
            "--workdir."
        )


@contextmanager
def _guarded(path: Path) -> Iterator[Any]:
    """Open the lock's file, made if there is none, for this process alone."""
    until = time.monotonic() + GUARD_SECONDS
    while True:
        with path.open("a+b") as file:
            file.seek(0)
            while True:
                try:
                    _flock(file)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise OSError(f"{path} is being changed by another process") from None
                    time.sleep(0.02)
            # An owner that released it in the meantime has removed the file that is open here.
            try:
                is_same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                is_same = False
            if is_same:
                yield file
                return


def _flock(file: Any) -> None:
    """Lock an open file until it is closed, where the file system can.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system that has none.
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK):
                raise


def read_owner(content: bytes) -> Owner | None:
    """Return the owner that a lock names; None if it is empty or half written."""
    try:
        return Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None


def _owner_in(path: Path) -> Owner | None:
    try:
        with path.open("rb") as file:
            return read_owner(file.read())
    except OSError:
        return None


def _write_owner(file: Any, owner: Owner) -> None:
    file.truncate(0)  # and it is open for appending
    file.write(json.dumps(asdict(owner)).encode())
    file.flush()
    os.fsync(file.fileno())


def _age(folder: Path, path: Path) -> float:
    """Seconds since the heartbeat, by the clock of the file system, which all hosts share."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime - path.stat().st_mtime


def _system() -> str:
    """Return what differs between systems and containers that have the same name; empty on systems
    other than Linux, where only the heartbeat tells whether an owner is gone."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _born(pid: int) -> str:
    """Return the start time of a process; empty if there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
