"""Download of a published file, against servers on the loopback interface only."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flax_resnet.data import download
from flax_resnet.data.download import PublishedFile, fetch
from flax_resnet.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB: several chunks


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        body = {
            "/good": CONTENT,
            "/half": CONTENT[: len(CONTENT) // 2],
            "/stall": CONTENT[:1000],
            "/other": CONTENT[::-1],
        }[self.path]
        self.wfile.write(body)
        if self.path == "/stall":
            self.wfile.flush()
            self.server.release.wait(10)  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.release = threading.Event()  # type: ignore[attr-defined]
    # A short poll, because shutdown() waits for one.
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.release.set()  # type: ignore[attr-defined]
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def published(url: str) -> PublishedFile:
    return PublishedFile("set.tar.gz", url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def assert_refused(file: PublishedFile, folder: Path, *expected: str) -> None:
    """The download fails, says all that the user needs, and leaves nothing."""
    with pytest.raises(UserError) as caught:
        fetch(file, folder / file.name)
    message = str(caught.value)
    facts = (file.name, file.url, str(folder), str(file.size), file.sha256, "--config digits")
    for fact in (*facts, *expected):
        assert fact in message
    assert "\n" not in message
    assert not folder.exists() or not list(folder.iterdir())


def test_good_file_arrives_whole_and_alone(server: str, tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "set.tar.gz"
    fetch(published(f"{server}/good"), target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_left_over_part_of_a_killed_run_does_no_harm(server: str, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    target.with_name("set.tar.gz.part").write_bytes(b"x" * (2 * len(CONTENT)))
    fetch(published(f"{server}/good"), target)
    assert target.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [target]


def test_no_progress_bar_off_a_terminal(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(published(f"{server}/good"), tmp_path / "set.tar.gz")
    assert capfd.readouterr() == ("", "")


def test_wrong_bytes(server: str, tmp_path: Path) -> None:
    received = hashlib.sha256(CONTENT[::-1]).hexdigest()
    assert_refused(
        published(f"{server}/other"), tmp_path, f"received {len(CONTENT)} bytes", received
    )


def test_failed_download_keeps_the_file_that_was_there(server: str, tmp_path: Path) -> None:
    target = tmp_path / "set.tar.gz"
    target.write_bytes(b"earlier")
    with pytest.raises(UserError):
        fetch(published(f"{server}/other"), target)
    assert target.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_cut_off_half_way(server: str, tmp_path: Path) -> None:
    assert_refused(published(f"{server}/half"), tmp_path, f"received {len(CONTENT) // 2} bytes")


def test_more_bytes_than_published(server: str, tmp_path: Path) -> None:
    assert_refused(replace(published(f"{server}/good"), size=1000), tmp_path)


def test_not_found(server: str, tmp_path: Path) -> None:
    assert_refused(published(f"{server}/gone"), tmp_path, "404")


def test_refused_port(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        assert_refused(published(url), tmp_path, "refused")


def test_transfer_that_falls_silent(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "READ_SECONDS", 0.3)
    assert_refused(published(f"{server}/stall"), tmp_path, "timed out")


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


def test_no_network_is_told_within_20_seconds() -> None:
    assert download.OPEN_SECONDS < 20
    assert download.READ_SECONDS < 20


def test_folder_that_cannot_be_made(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch(published(f"{server}/good"), tmp_path / "file" / "set.tar.gz")
