"""The process of the server: its socket, its start, and its end without a lost request."""

import asyncio
import ipaddress
import logging
import math
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from ...errors import UserError, first_line
from .service import Service

# A request that is on its way to a connection or socket that closes would be lost. So for the first
# of these seconds after the signal to stop, connections are still taken, while answers ask clients
# to close theirs; for the second, those that were just taken may still send their request.
_NOTICE, _ARRIVAL = 1.0, 0.5
_BACKLOG = 2048  # uvicorn's
_KEEP_ALIVE = 75  # seconds; balancers that keep connections for 60 then close them first


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that the port is this process's while the model is loaded.

    Connections wait there until the server runs.

    Raises:
        UserError: The address is none of this machine, or in use.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"--port is {port}; it must be from 0 to 65535.", exit_code=2)
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(_BACKLOG)  # two sockets may be bound to a port, but only one listens
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"The server cannot use port {port} of {host} ({reason}): give another --port or "
            "--host."
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the URL at which a socket is reached from this machine."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "::1" if address.version == 6 else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def run_server(app: Starlette, bound: socket.socket, on_ready: Callable[[], None]) -> int:
    """Serve an application until SIGTERM or Ctrl-C, then answer what has arrived.

    A second signal ends the server at once.

    Args:
        app: The application of ``create_app``.
        bound: The socket of ``open_socket``.
        on_ready: Called once the model has been compiled.

    Returns:
        The number of requests that were answered with predictions.

    Raises:
        UserError: The model cannot be compiled or computed.
    """
    for name in ("uvicorn.error", "python_multipart"):  # strangers' malformed requests
        logging.getLogger(name).setLevel(logging.ERROR if name == "uvicorn.error" else 100)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(service.settings.timeout) + 1,
    )
    server = _Server(config, service)
    errors: list[Exception] = []

    def compiled(ready: Future[None]) -> None:
        if ready.cancelled():
            return
        error = ready.exception()
        if error is None:
            on_ready()
        elif isinstance(error, Exception):
            errors.append(error)
            server.should_exit = True

    service.batcher.ready.add_done_callback(compiled)
    server.run([bound])
    if errors and isinstance(errors[0], UserError):
        raise errors[0]
    if errors:
        raise UserError(f"The model cannot be computed ({first_line(errors[0])}).") from errors[0]
    return service.answered


class _Server(uvicorn.Server):
    """uvicorn's server, which gives notice before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle the signals to stop; they are not raised again, so that the exit code is 0."""
        if self._service.draining:
            self.force_exit = self.should_exit = True
        self._service.draining = True
        self._stop_at = time.monotonic() + _NOTICE

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; uvicorn calls this ten times a second."""
        if time.monotonic() > self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what waits at the sockets and close them; then answer, and close connections."""
        loop = asyncio.get_running_loop()
        taken = [connection for listener in sockets or () for connection in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for connection in taken:
            await loop.connect_accepted_socket(self._protocol, connection)
        if not self.force_exit:
            await asyncio.sleep(_ARRIVAL)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Return the connections that wait at a socket that does not block."""
    taken = []
    with suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            taken.append(connection)
    return taken
