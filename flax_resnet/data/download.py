"""What is published where, and the download of one such file, checked on arrival."""

from __future__ import annotations

import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

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

# Name look-up, connection and response headers together: with no network the
# user hears of it within 20 seconds, however many addresses the name has.
OPEN_SECONDS = 15.0
# Longest silence allowed on an open connection.
READ_SECONDS = 10.0
_CHUNK_BYTES = 1 << 18
# ValueError: an address, first or redirected to, that cannot be understood.
_FAILURES = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True)
class PublishedFile:
    """A file as its publisher offers it: `size` in bytes, `sha256` in lower-case hex."""

    name: str
    url: str
    size: int
    sha256: str

    def describe(self) -> str:
        """Return the facts that identify the file, for use in a message."""
        return f"{self.size} bytes, sha256 {self.sha256}"


def _files(folder_url: str, *facts: tuple[str, int, str]) -> tuple[PublishedFile, ...]:
    return tuple(
        PublishedFile(name, folder_url + name, size, sha256) for name, size, sha256 in facts
    )


# By data set name.
PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {
    "mnist": _files(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": _files(
        # Plain http is all there is; the checksum stands in for TLS.
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": _files(
        "https://www.cs.toronto.edu/~kriz/",
        (
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    "cifar100": _files(
        "https://www.cs.toronto.edu/~kriz/",
        (
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
}


class _DownloadFailed(Exception):
    """Carries the reason from the transfer to the one place that words the message."""


def fetch(file: PublishedFile, target: Path) -> None:
    """Download `file` to the path `target`, or leave nothing behind.

    The bytes go to `<target>.part` and are renamed only when their number and
    SHA-256 are the published ones, so `target` is never partial.

    Raises:
        UserError: no connection, an HTTP error, a silent or broken connection,
            wrong bytes, or a folder that cannot be written.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _transfer(file, part)
            os.replace(part, target)
        finally:
            # Also on Ctrl-C; after the rename there is nothing left to remove.
            part.unlink(missing_ok=True)
    except (_DownloadFailed, *_FAILURES) as error:
        raise UserError(
            f"{file.name} is missing and could not be downloaded from {file.url} "
            f"({_reason(error)}): put the file ({file.describe()}) into the folder "
            f"{target.parent} yourself, or use --config digits, which needs no download"
        ) from error


def _transfer(file: PublishedFile, part: Path) -> None:
    digest = hashlib.sha256()
    received = 0
    with _open(file.url) as response, open(part, "wb") as out, _progress_bar() as bar:
        task = bar.add_task(file.name, total=file.size)
        # One byte too many settles it: a wrong server must not fill the disk.
        while received <= file.size and (chunk := response.read1(_CHUNK_BYTES)):
            out.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            bar.update(task, completed=received)
    if received != file.size or digest.hexdigest() != file.sha256:
        raise _DownloadFailed(
            f"expected {file.describe()}, received {received} bytes, sha256 {digest.hexdigest()}"
        )


def _open(url: str) -> http.client.HTTPResponse:
    """Open `url`, giving up after OPEN_SECONDS.

    urllib's own time-out counts per address and does not cover the name
    look-up, so the call runs in a thread that can be left behind. It is a
    daemon thread: a look-up that hangs must not keep the process alive.
    """
    outcome: list[http.client.HTTPResponse | Exception] = []
    lock = threading.Lock()
    abandoned = False

    def work() -> None:
        result: http.client.HTTPResponse | Exception
        try:
            result = urllib.request.urlopen(url, timeout=READ_SECONDS)
        except _FAILURES as error:  # handed to the caller's thread below
            result = error
        with lock:
            if not abandoned:
                outcome.append(result)
            elif isinstance(result, http.client.HTTPResponse):
                result.close()

    thread = threading.Thread(target=work, name=f"open {url}", daemon=True)
    thread.start()
    thread.join(OPEN_SECONDS)
    with lock:
        abandoned = not outcome
    if abandoned:
        raise _DownloadFailed(f"no answer within {OPEN_SECONDS:g} seconds")
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        # Control codes and hundreds of redrawn lines have no place in a log file.
        disable=not console.is_terminal,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}: {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
