"""The routes of the server, as an ASGI application."""

import asyncio
import base64
import hmac
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ...errors import UserError
from ..classifier import Classifier
from ..outputs import TestTimeAugmentation
from ..write_predictions import to_entries
from . import v2
from .bodies import Refusal, check_length, parse_uploads
from .openapi import describe
from .page import content_security_policy, write_page
from .service import Engine, Service
from .settings import ServeSettings

_T = TypeVar("_T")
_Handler = Callable[[Request], Awaitable[Response]]

# Routes that need no token: probes of schedulers, and the page, which asks for the token itself.
OPEN = frozenset({"/", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})


def create_app(
    classifier: Classifier,
    settings: ServeSettings | None = None,
    *,
    name: str = "model",
    engine: Engine = "jax",
    tta: TestTimeAugmentation | None = None,
    temperature: float = 1.0,
) -> Starlette:
    """Return the ASGI application that serves a classifier.

    Its threads start and end with the application's lifespan; ``app.state.service`` holds them.

    Args:
        classifier: The trained model.
        settings: Limits, and how batches are formed.
        name: Name of the model in ``/v2/models/NAME``.
        engine: What computes the logits: ``"jax"``, or ``"onnxruntime"``, for which the classifier
            is exported and compared first. A file in ONNX is always computed by onnxruntime.
        tta: Test-time augmentation, see ``Classifier.predict``.
        temperature: The logits are divided by it.

    Raises:
        UserError: The name cannot be that of a model in a URL, the temperature is not above 0, the
            classifier is random, or onnxruntime is not installed.
    """
    settings = settings or ServeSettings()
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
        raise UserError(
            f"The model's name is {name!r}; it must be of letters, digits, dots, - and _.", 2
        )
    service = Service(classifier, settings, engine=engine, tta=tta, temperature=temperature)
    routes = _Routes(service, name)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await asyncio.to_thread(service.close)

    app = Starlette(
        routes=routes.list(),
        lifespan=lifespan,
        exception_handlers={
            Refusal: _refused,
            HTTPException: _not_found,
            Exception: _failed,
        },
    )
    app.state.service = service
    app.add_middleware(_Observed, service=service)
    return app


class _Routes:
    """Functions of requests; the names and bodies are described in ``openapi.py``."""

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name

    def list(self) -> list[Route]:
        model = "/v2/models/{name}"
        return [
            Route("/", self.page),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/healthz", self.live),
            Route("/readyz", self.ready),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route(model, self.model_metadata),
            Route(f"{model}/ready", self.model_ready),
            Route(f"{model}/infer", self.infer, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        page = write_page(self.name, self.service)
        return HTMLResponse(page, headers={"content-security-policy": content_security_policy()})

    async def predict(self, request: Request) -> Response:
        top_k = _top_k(request, self.service.settings.top_k)
        with_heat_maps = _flag(request, "heat_map")

        async def classify(body: bytes) -> list[dict[str, Any]]:
            content_type = request.headers.get("content-type", "")
            limit = self.service.settings.queue
            uploads = await self.service.in_thread(parse_uploads, content_type, body, limit)
            found = await self.service.classify_uploads(uploads)
            entries = list(to_entries([found], top_k))
            if with_heat_maps:
                pictures = await self.service.draw_heat_maps(uploads, found)
                for entry, picture in zip(entries, pictures, strict=True):
                    entry["heat_map"] = base64.b64encode(picture).decode()
            return entries

        return JSONResponse(await self._answer(request, classify))

    async def infer(self, request: Request) -> Response:
        self._check_name(request)

        async def infer(body: bytes) -> dict[str, Any]:
            limit = self.service.settings.queue
            asked = await self.service.in_thread(v2.parse_infer, body, limit)
            if isinstance(asked.images, list):
                predictions = await self.service.classify_uploads(asked.images)
            else:
                predictions = await self.service.classify_pixels(asked.images)
            return v2.infer_response(self.name, predictions, asked)

        return JSONResponse(await self._answer(request, infer))

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        self.service.check_ready()
        return JSONResponse({"ready": True})

    async def metrics(self, request: Request) -> Response:
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self.service.metrics.text(), media_type=kind)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(describe(self.service.settings))

    async def server_metadata(self, request: Request) -> Response:
        from ... import __version__

        return JSONResponse({"name": "flax-resnet", "version": __version__, "extensions": []})

    async def model_metadata(self, request: Request) -> Response:
        self._check_name(request)
        classifier = self.service.classifier
        return JSONResponse(
            v2.model_metadata(self.name, classifier.transform, len(classifier.classes))
        )

    async def model_ready(self, request: Request) -> Response:
        self._check_name(request)
        self.service.check_ready()
        return JSONResponse({"name": self.name, "ready": True})

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self.name:
            raise Refusal(404, f"There is no model {name[:80]!r} here: it is {self.name!r}.")

    async def _answer(self, request: Request, work: Callable[[bytes], Awaitable[_T]]) -> _T:
        """Read a body and await work on it, while the client waits and the time lasts."""
        service = self.service
        if not service.draining:  # until it stops, the server answers
            service.check_ready()
        check_length(request.headers, service.settings.max_upload)
        reading = True
        try:
            async with asyncio.timeout(service.settings.timeout):
                with service.admit(1), service.buffer() as read:
                    body = await read(request.stream())
                    reading = False
                    return await _while_connected(request, work(body))
        except TimeoutError:
            seconds = f"{service.settings.timeout:g} s"
            if reading:
                raise Refusal(408, f"The request did not arrive within {seconds}.") from None
            raise Refusal(
                503,
                f"The server did not answer within {seconds}: try again later.",
                Retry_After="5",
            ) from None


async def _while_connected(request: Request, work: Awaitable[_T]) -> _T:
    """Await work, or stop it where the client has gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # after the body only the end is received
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _top_k(request: Request, default: int) -> int:
    text = request.query_params.get("top_k", str(default))
    if not (text.isascii() and text.isdecimal() and int(text[:9]) > 0 and len(text) < 10):
        raise Refusal(400, f"top_k is {text[:40]!r}; it must be an integer from 1.")
    return int(text)


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise Refusal(400, f"{name} is {text[:40]!r}; it must be true or false.")
    return text == "true"


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _error(error.status, error.sentence, error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Not request.url, which fails on a query that is not UTF-8.
    path = f"{request.method} {request.scope['path']}"[:200]
    sentence = f"There is no {path}: /openapi.json describes what there is."
    return _error(error.status_code, sentence, dict(error.headers or {}))


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, "The server failed to answer this request; its standard error says why.")


class _Observed:
    """Middleware: asks for the token, counts requests, and closes connections when draining."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        status = 499  # the client has gone before the answer

        async def observed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
                if self.service.draining:  # the client's next request goes elsewhere
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            if scope["path"] in OPEN or self._has_token(scope["headers"]):
                await self.app(scope, receive, observed)
            else:
                refusal = _error(
                    401,
                    "The token is missing or wrong: send the header Authorization: Bearer TOKEN.",
                    {"www-authenticate": "Bearer"},
                )
                await refusal(scope, receive, observed)
        except ClientDisconnect:
            pass
        except Exception:
            status = 500
            raise
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "other")
            self.service.answered += status == 200 and route in ("predict", "infer")
            self.service.metrics.requests.labels(route, str(status)).inc()
            self.service.metrics.seconds.labels(route).observe(time.monotonic() - started)

    def _has_token(self, headers: list[tuple[bytes, bytes]]) -> bool:
        token = self.service.settings.token
        if token is None:
            return True
        given = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, value = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(value.strip(), token.encode())
