"""The download of one published file, with resumption and a check of size and SHA-256.

Written by hand: pooch cannot resume, and huggingface_hub's function is for its own servers; neither
checks the range that a server returns, nor limits the time of a name look-up.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flax_resnet.errors import UserError
from flax_resnet.paths import process_folder, writable_folder
from flax_resnet.process_lock import one_process

# The time for name look-up, connection and response headers together: without a network the user
# gets a message within 20 seconds, however many addresses the name has.
OPEN_SECONDS = 15.0
# The longest silence on an open connection.
READ_SECONDS = 10.0
# The number of connections for one file if each breaks off after new bytes.
ATTEMPTS = 5
_CHUNK_BYTES = 1 << 18
# ValueError: an invalid address, the first or one that it redirects to.
_FAILURES = (OSError, http.client.HTTPException, ValueError)
_SHA256_DIGITS = 64

_T = TypeVar("_T")


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher offers it.

    Attributes:
        name: The file's name, for messages.
        url: The address.
        size: The size in bytes, or None if the publisher does not state it.
        sha256: The lower-case hex digits, all 64 or, as in the names of torch's files, the first of
            them.
    """

    name: str
    url: str
    size: int | None
    sha256: str

    def describe(self) -> str:
        """Return the facts that identify the file, for use in a message."""
        size = "" if self.size is None else f"{self.size} bytes, "
        digits = "" if len(self.sha256) == _SHA256_DIGITS else "beginning with "
        return f"{size}sha256 {digits}{self.sha256}"


class _WrongBytes(Exception):
    """The whole file was received, and it is not the published one."""


def fetch(file: PublishedFile, target: Path, otherwise: str) -> Path:
    """Download a file.

    The bytes go to ``TARGET.part``, which is renamed only when its size and SHA-256 are the
    published ones, so ``target`` is never partial. A download that breaks off, also by Ctrl-C,
    leaves its ``.part``, and the next call requests only the rest. Wrong bytes are removed. Of
    several processes one downloads the file, and the others wait for it.

    Args:
        file: The published file.
        target: The path to write.
        otherwise: What else the user can do, as the end of a sentence.

    Returns:
        The path of the file: ``target``, or, where its folder cannot be written, one of a folder
        that is deleted when the process ends; a note then says so on standard error.

    Raises:
        UserError: There is no connection, the server answers with an error, the connection is
            silent or breaks off repeatedly, or the bytes are wrong.
    """
    folder = target.parent
    if writable_folder(folder) is None:
        target = process_folder() / file.sha256 / target.name
        target.parent.mkdir(exist_ok=True)
        if is_published(target, file):
            return target
        note = f"{folder} cannot be written, so {file.name} is downloaded for this process only."
        print(f"note: {note}", file=sys.stderr)
    lock = target.with_name(target.name + ".lock")
    note = f"another process is downloading {file.name} into {target.parent}; this one waits."
    with one_process(lock, note):
        try:
            return _fetch(file, target, folder, otherwise)
        finally:
            # While the lock is held, so that no other process has locked this file meanwhile.
            with contextlib.suppress(OSError):
                lock.unlink()


def _fetch(file: PublishedFile, target: Path, folder: Path, otherwise: str) -> Path:
    """Download a file that no other process downloads, as ``fetch`` does.

    Args:
        file, target, otherwise: As for ``fetch``.
        folder: The folder that messages name.
    """
    if is_published(target, file):  # by another process, which held the lock
        return target
    part = target.with_name(target.name + ".part")
    try:
        _download(file, part)
        os.replace(part, target)
        return target
    except (_WrongBytes, *_FAILURES) as error:
        # Where a file system has no locks, another process may have renamed the same ``.part``.
        if is_published(target, file):
            return target
        failed = f"{file.name} could not be downloaded from {file.url} ({_reason(error)})"
        by_hand = (
            f"put the file ({file.describe()}) into the folder {folder} yourself, or {otherwise}"
        )
        if kept := _length(part):
            raise UserError(
                f"{failed}: {kept} bytes are kept in {part} and running the command again resumes "
                f"the download; or {by_hand}"
            ) from error
        # missing_ok does not cover a folder that is a file.
        with contextlib.suppress(OSError):
            part.unlink()
        raise UserError(f"{failed}: {by_hand}") from error


def is_published(path: Path, file: PublishedFile) -> bool:
    """Return whether a file can be read and has the published size and SHA-256."""
    try:
        return _fits(file, *_facts(path))
    except OSError:
        return False


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Call a function and return its result within a time limit.

    The function runs in a thread that can be abandoned, because the time-outs of an HTTP library
    are per address and do not cover the name look-up. It is a daemon thread, because a look-up that
    hangs must not keep the process alive.

    Args:
        seconds: The time limit.
        call: The function. What it raises is raised here.

    Raises:
        TimeoutError: There is no result in time; a later one is dropped.
    """
    outcome: Future[_T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:  # raised again in the caller's thread
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError:
        if outcome.done():  # the call's own
            raise
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None


def _download(file: PublishedFile, part: Path) -> None:
    """Complete ``part``, which may hold the beginning already, and check it.

    Raises:
        _WrongBytes: The file is complete but not the published one; it is removed.
    """
    # What an earlier call left may be damaged, or belong to a file that was replaced since: then
    # the file is downloaded once more from its beginning.
    for resumed in (_length(part) > 0, False):
        _complete(file, part)
        size, sha256 = _facts(part)
        if _fits(file, size, sha256):
            return
        part.unlink()
        if not resumed:
            raise _WrongBytes(f"expected {file.describe()}, received {size} bytes, sha256 {sha256}")


def _complete(file: PublishedFile, part: Path) -> None:
    """Receive the rest of ``part``, over at most ATTEMPTS connections that each add bytes."""
    with _progress_bar() as bar:
        task = bar.add_task(file.name, total=file.size, completed=_length(part))
        for attempt in range(1, ATTEMPTS + 1):
            before = _length(part)
            if file.size is not None and before >= file.size:
                return
            try:
                _receive(file, part, partial(bar.update, task))
                return
            except _FAILURES:
                if attempt == ATTEMPTS or _length(part) <= before:
                    raise


def _receive(file: PublishedFile, part: Path, show: Callable[..., None]) -> None:
    """Add the bytes of one connection to ``part``.

    Raises:
        ConnectionError: The body ended before its announced end.
    """
    response, received = _request(file, _length(part))
    announced = None if response.length is None else received + response.length
    show(total=file.size or announced)
    # Neither appended to nor emptied: where a file system has no locks, two downloads at a time
    # write the same bytes at the same offsets.
    part.touch()
    with response, open(part, "r+b") as out:
        out.seek(received)
        # One byte too many is enough to stop: a wrong server must not fill the disk.
        while file.size is None or received <= file.size:
            chunk = response.read1(_CHUNK_BYTES)
            if not chunk:
                if announced is not None and received < announced:
                    raise ConnectionError(f"it broke off after {received} of {announced} bytes")
                out.truncate()  # what an earlier call left may be longer
                return
            out.write(chunk)
            received += len(chunk)
            show(completed=received)


def _request(file: PublishedFile, kept: int) -> tuple[http.client.HTTPResponse, int]:
    """Request the bytes from ``kept`` on, or all where the server does not send just these.

    Returns:
        The response, and the offset in the file of its first byte.
    """
    if kept:
        try:
            response = _open(file.url, kept)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            error.close()
        else:
            if response.status == HTTPStatus.OK:
                return response, 0
            if _is_rest(response, file, kept):
                return response, kept
            response.close()
    return _open(file.url, 0), 0


def _is_rest(response: http.client.HTTPResponse, file: PublishedFile, kept: int) -> bool:
    content_range = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
    if match is None or response.status != HTTPStatus.PARTIAL_CONTENT:
        return False
    first, last, size = map(int, match.groups())
    return first == kept and last + 1 == size and file.size in (None, size)


def _open(url: str, start: int) -> http.client.HTTPResponse:
    """Open an address from the byte ``start`` on, within OPEN_SECONDS."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    return within(OPEN_SECONDS, partial(urllib.request.urlopen, request, timeout=READ_SECONDS))


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _facts(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of a file on the disk."""
    with open(path, "rb") as content:
        return os.fstat(content.fileno()).st_size, hashlib.file_digest(
            content, "sha256"
        ).hexdigest()


def _fits(file: PublishedFile, size: int, sha256: str) -> bool:
    return file.size in (None, size) and sha256.startswith(file.sha256)


def _progress_bar() -> Progress:
    # Control codes and hundreds of redrawn lines would fill a log file.
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}: {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
