"""Download of a published file, against servers on the loopback interface only."""

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest

from flax_resnet import download, process_lock
from flax_resnet.download import PublishedFile, fetch, is_published
from flax_resnet.errors import UserError

CONTENT = hashlib.shake_256(b"no byte like its neighbour").digest(1 << 20)  # several chunks
HALF = len(CONTENT) // 2
TRICKLE = 1000
OTHERWISE = "use another one"

# Paths whose server supports ranges, and how many bytes each answer has before it breaks off.
RANGES = {"/good": len(CONTENT), "/drop": HALF, "/trickle": TRICKLE, "/interrupt": HALF}
# Paths of servers that send the same body for every request.
BODIES = {
    "/no-ranges": CONTENT,
    "/no-length": CONTENT,
    "/half": CONTENT[:HALF],
    "/stall": CONTENT[:TRICKLE],
    "/other": CONTENT[::-1],
    "/page": b"<html>Please log in</html>",
}
# Wrong answers of a server that broke off half-way to the request for the rest.
WRONG_RANGES = {
    "/416": (416, None),
    "/elsewhere": (206, f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"),
    "/of-another-size": (206, f"bytes {HALF}-{len(CONTENT)}/{len(CONTENT) + 1}"),
    "/too-little": (206, f"bytes {HALF}-{HALF + 9}/{len(CONTENT)}"),
    "/no-content-range": (206, None),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        range_header = self.headers["Range"]
        self.server.ranges.append(range_header)  # type: ignore[attr-defined]
        if self.path in RANGES:
            start = (
                int(range_header.removeprefix("bytes=").removesuffix("-")) if range_header else 0
            )
            self.answer_range(start, CONTENT[start : start + RANGES[self.path]])
        elif self.path in BODIES:
            body = BODIES[self.path]
            length = len(body) if self.path in ("/other", "/page") else len(CONTENT)
            self.answer(200, None if self.path == "/no-length" else length, body)
        elif self.path in WRONG_RANGES:
            first = len(self.server.ranges) == 1  # type: ignore[attr-defined]
            status, content_range = WRONG_RANGES[self.path] if range_header else (200, None)
            self.answer(status, len(CONTENT), CONTENT[:HALF] if first else CONTENT, content_range)
        elif self.path == "/break-then-503" and not range_header:
            self.answer(200, len(CONTENT), CONTENT[:HALF])
        else:
            self.send_error(503 if range_header else 404)
        if self.path in ("/stall", "/interrupt"):
            self.wfile.flush()
            self.server.silent.set()  # type: ignore[attr-defined]
            self.server.release.wait(10)  # type: ignore[attr-defined]

    def answer_range(self, start: int, body: bytes) -> None:
        if start >= len(CONTENT):
            self.send_error(416)
        elif start:
            content_range = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            self.answer(206, len(CONTENT) - start, body, content_range)
        else:
            self.answer(200, len(CONTENT), body)

    def answer(
        self, status: int, length: int | None, body: bytes, content_range: str | None = None
    ) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Keeps in `ranges` the header Range of every request; `release` ends a silence."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.ranges: list[str | None] = []
        self.silent = threading.Event()
        self.release = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that hangs up is part of these tests


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as httpd:
        # A short poll, because shutdown() waits for one.
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield httpd
        httpd.release.set()
        httpd.shutdown()
        thread.join()


def published(url: str) -> PublishedFile:
    return PublishedFile("set.tar.gz", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def part_of_download(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def assert_arrived(target: Path) -> None:
    """The file is there, whole, and nothing else is."""
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def error_of(file: PublishedFile, target: Path) -> str:
    """The sentence a download fails with, which holds all that the user needs."""
    with pytest.raises(UserError) as caught:
        fetch(file, target, OTHERWISE)
    message = str(caught.value)
    for fact in (file.name, file.url, str(target.parent), str(file.size), file.sha256, OTHERWISE):
        assert fact in message
    assert "\n" not in message
    return message


def assert_refused(file: PublishedFile, folder: Path, *expected: str) -> None:
    """The download fails, says why, and leaves nothing."""
    message = error_of(file, folder / file.name)
    for fact in expected:
        assert fact in message
    assert "kept" not in message
    assert not folder.exists() or not list(folder.iterdir())


# --- A whole file ------------------------------------------------------------


def test_good_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "set.tar.gz"
    fetch(published(f"{server.url}/good"), target, OTHERWISE)
    assert_arrived(target)
    assert server.ranges == [None]


@pytest.mark.parametrize("path", ["/good", "/no-length"])
def test_unknown_size_and_first_digits_of_the_checksum(
    server: Server, tmp_path: Path, path: str
) -> None:
    target = tmp_path / "set.tar.gz"
    whole = published(server.url + path)
    fetch(replace(whole, size=None, sha256=whole.sha256[:8]), target, OTHERWISE)
    assert_arrived(target)


def test_no_progress_bar_off_a_terminal(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(published(f"{server.url}/drop"), tmp_path / "set.tar.gz", OTHERWISE)
    assert capfd.readouterr() == ("", "")


def test_is_published(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = published("")
    assert not is_published(path, file)
    assert not is_published(tmp_path, file)
    path.write_bytes(CONTENT)
    assert is_published(path, file)
    assert is_published(path, replace(file, size=None, sha256=file.sha256[:8]))
    assert not is_published(path, replace(file, size=1000))
    assert not is_published(path, replace(file, sha256="0" + file.sha256[:8]))


# --- Wrong bytes -------------------------------------------------------------


def test_wrong_bytes(server: Server, tmp_path: Path) -> None:
    received = hashlib.sha256(CONTENT[::-1]).hexdigest()
    file = published(f"{server.url}/other")
    assert_refused(
        file, tmp_path, f"expected {file.describe()}, received {len(CONTENT)} bytes", received
    )


def test_wrong_first_digits_of_the_checksum(server: Server, tmp_path: Path) -> None:
    received = hashlib.sha256(CONTENT).hexdigest()
    file = PublishedFile("net.pth", f"{server.url}/good", None, "01234567")
    with pytest.raises(UserError, match=f"expected sha256 beginning with 01234567.*{received}"):
        fetch(file, tmp_path / file.name, OTHERWISE)
    assert list(tmp_path.iterdir()) == []


def test_page_in_place_of_the_file(server: Server, tmp_path: Path) -> None:
    assert_refused(
        published(f"{server.url}/page"), tmp_path, f"received {len(BODIES['/page'])} bytes"
    )
    assert len(server.ranges) == 1


def test_more_bytes_than_published(server: Server, tmp_path: Path) -> None:
    file = replace(published(f"{server.url}/good"), size=1000)
    message = error_of(file, tmp_path / file.name)
    assert "expected 1000 bytes" in message
    assert f"received {len(CONTENT)} bytes" not in message  # it stopped before
    assert list(tmp_path.iterdir()) == []


def test_failed_download_keeps_the_file_that_was_there(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    target.write_bytes(b"earlier")
    error_of(published(f"{server.url}/other"), target)
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


# --- A connection that breaks off --------------------------------------------


def test_dropped_half_way_requests_the_rest(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    fetch(published(f"{server.url}/drop"), target, OTHERWISE)
    assert_arrived(target)
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("path", WRONG_RANGES)
def test_wrong_answer_to_a_range_starts_again(server: Server, tmp_path: Path, path: str) -> None:
    target = tmp_path / "set.tar.gz"
    fetch(published(server.url + path), target, OTHERWISE)
    assert_arrived(target)
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_connection_that_keeps_dropping_is_left_after_a_few_times(
    server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "set.tar.gz"
    message = error_of(published(f"{server.url}/trickle"), target)
    assert len(server.ranges) == 5
    kept = 5 * TRICKLE
    assert f"{kept} bytes are kept" in message
    assert "running the command again" in message
    assert part_of_download(target).read_bytes() == CONTENT[:kept]
    # The next call resumes the download.
    fetch(published(f"{server.url}/good"), target, OTHERWISE)
    assert_arrived(target)
    assert server.ranges[-1] == f"bytes={kept}-"


def test_drops_without_new_bytes_are_not_repeated(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    message = error_of(published(f"{server.url}/half"), target)
    assert f"after {HALF} of {len(CONTENT)} bytes" in message
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert part_of_download(target).read_bytes() == CONTENT[:HALF]


def test_server_that_goes_away_half_way(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    message = error_of(published(f"{server.url}/break-then-503"), target)
    assert "503" in message
    assert f"{HALF} bytes are kept" in message
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_transfer_that_falls_silent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "READ_SECONDS", 0.3)
    message = error_of(published(f"{server.url}/stall"), tmp_path / "set.tar.gz")
    assert "timed out" in message
    assert f"{TRICKLE} bytes are kept" in message


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises, also where a shell started the tests in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_interrupted_by_the_user_then_resumed(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    part = part_of_download(target)

    def press_ctrl_c() -> None:
        server.silent.wait(10)
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press_ctrl_c, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fetch(published(f"{server.url}/interrupt"), target, OTHERWISE)
    thread.join()
    kept = part.read_bytes()
    assert kept == CONTENT[: len(kept)]
    fetch(published(f"{server.url}/good"), target, OTHERWISE)
    assert_arrived(target)
    assert server.ranges == [None, f"bytes={len(kept)}-"]


# --- What an earlier call left -----------------------------------------------


def test_server_without_ranges_sends_the_whole_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    part_of_download(target).write_bytes(CONTENT[:HALF])
    fetch(published(f"{server.url}/no-ranges"), target, OTHERWISE)
    assert_arrived(target)
    assert server.ranges == [f"bytes={HALF}-"]


@pytest.mark.parametrize("length", [HALF, len(CONTENT), 2 * len(CONTENT)])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_damaged_part_does_no_harm(
    server: Server, tmp_path: Path, length: int, size: int | None
) -> None:
    target = tmp_path / "set.tar.gz"
    part_of_download(target).write_bytes(b"x" * length)
    fetch(replace(published(f"{server.url}/good"), size=size), target, OTHERWISE)
    assert_arrived(target)


def test_complete_part_needs_no_server(tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    part_of_download(target).write_bytes(CONTENT)
    fetch(published("http://name.invalid/x"), target, OTHERWISE)
    assert_arrived(target)


# --- Two downloads of one file -------------------------------------------------


def test_a_second_process_waits_for_the_file(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It failed although the file arrived, because the first had renamed the ``.part``."""
    monkeypatch.setattr(process_lock, "NOTE_SECONDS", 0.05)
    target = tmp_path / "set.tar.gz"
    words = published(f"{server.url}/interrupt"), target, OTHERWISE
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, *words)
        assert server.silent.wait(10)
        second = pool.submit(fetch, *words)
        printed, end = "", time.monotonic() + 5
        while not printed and time.monotonic() < end:
            time.sleep(0.02)
            printed = capsys.readouterr().err
        server.release.set()
        assert first.result() == second.result() == target
    assert "another process is downloading set.tar.gz" in printed
    assert_arrived(target)
    assert server.ranges == [None, f"bytes={HALF}-"]  # those of the first


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(37, "No locks available")])
def test_a_file_system_without_locks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Downloads work there; one that another process overtakes finds the file."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    target = tmp_path / "set.tar.gz"
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(fetch, published(f"{server.url}/interrupt"), target, OTHERWISE)
        assert server.silent.wait(10)
        while not (part_of_download(target).exists()):
            time.sleep(0.01)
        fetch(published(f"{server.url}/good"), target, OTHERWISE)
        server.release.set()
        assert slow.result() == target
    assert_arrived(target)


# --- No connection -----------------------------------------------------------


def test_not_found(server: Server, tmp_path: Path) -> None:
    assert_refused(published(f"{server.url}/gone"), tmp_path, "404")


def test_refused_port(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        start = time.monotonic()
        assert_refused(published(url), tmp_path, "refused")
        target = tmp_path / "set.tar.gz"
        part_of_download(target).write_bytes(CONTENT[:HALF])
        assert f"{HALF} bytes are kept" in error_of(published(url), target)
        assert time.monotonic() - start < 3


def test_address_that_is_none(tmp_path: Path) -> None:
    assert_refused(published("not an address"), tmp_path, "unknown url type")


def test_peer_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "OPEN_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        assert_refused(published(url), tmp_path, "no answer")
        assert time.monotonic() - start < 3


def test_name_look_up_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*args: object, **kwargs: object) -> None:
        release.wait(10)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(download, "OPEN_SECONDS", 0.3)
    start = time.monotonic()
    assert_refused(published("http://name.invalid/x"), tmp_path, "no answer")
    assert time.monotonic() - start < 3
    release.set()


def test_no_network_is_reported_within_20_seconds() -> None:
    assert download.OPEN_SECONDS < 20
    assert download.READ_SECONDS < 20


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    """The file is downloaded for this process; without a connection, the folder is named."""
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "set.tar.gz"
    assert fetch(published(f"{server.url}/good"), target, OTHERWISE) != target
    with pytest.raises(UserError, match=f"into the folder {tmp_path / 'file'} yourself"):
        fetch(PublishedFile("x", "http://127.0.0.1:9/x", None, "0" * 64), target, OTHERWISE)
