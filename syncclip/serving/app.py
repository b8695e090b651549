"""HTTP layer: middleware for Ray Serve proxies (token, host, limits, timeouts, page) and endpoint for replicas.

Proxies only forward complete requests, so slow clients cannot occupy replicas. The environment variables from
`proxy_variables` make Ray Serve's proxies load `middlewares`. Proxies do not import torch.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import re
import threading
import time
from asyncio import Semaphore, TimerHandle
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from ray.serve import metrics as replica_metrics
from ray.util.metrics import Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http import auto

from syncclip.core.settings import UserError
from syncclip.core.text import cut, short_path, size
from syncclip.runtime.hosts import host_of, is_loopback
from syncclip.serving.decoding import Decoder

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from torch import Tensor

    from syncclip.inference.model import Model

TOKEN, TOKEN_SHA256 = "SYNCCLIP_SERVE_TOKEN", "SYNCCLIP_SERVE_TOKEN_SHA256"
"""Environment variables for the token and for its SHA-256 in hex (empty for no token); the SHA-256 takes precedence."""
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "syncclip.serving.app.middlewares"
"""Name and value of the environment variable that makes Ray Serve's proxies load this module."""

MAX_BODY_BYTES, MAX_BUFFERED_BYTES = 32 << 20, 256 << 20
"""Size limits in bytes: one request body, and all request bodies in a proxy's memory."""
MAX_RECEIVING, MAX_IN_FLIGHT = 1024, 128
"""Limits per proxy: requests whose body is being received, and requests forwarded to replicas."""
HEADER_SECONDS, BODY_SECONDS, RESPONSE_SECONDS = 10.0, 30.0, 60.0
"""Timeouts in seconds for receiving the header, transferring the body or response, and computing the response."""
UNTHROTTLED_BYTES, BYTES_PER_SECOND = 4 << 20, 32 << 20
"""Upload size in bytes above which a rate limit in bytes/s applies, so that large uploads don't delay others.

All large uploads to a proxy share the rate.
"""
MAX_HEADER_BYTES = 64 << 10
LINGER_SECONDS = 2.0
"""Maximum time in seconds for discarding the rest of a rejected body; closing immediately could lose the response."""

SMALL_BYTES = 4 << 20
"""Maximum size in bytes of a small body; small bodies have separate decoders and never wait for large ones."""
DECODERS = 4
"""Number of decoding processes per replica, including one for large bodies."""
BATCH = 32
"""Maximum number of images in one forward pass."""

HEALTH = "/-/healthz"
"""Ray Serve's path for proxy health checks."""
ROUTES = {"/": "GET", "/healthz": "GET", HEALTH: "GET", "/model": "GET", "/classify": "POST"}
"""HTTP methods by path."""
PUBLIC = ("/", "/healthz", HEALTH)
"""Paths that require no token, because their responses reveal nothing about the run."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

log = logging.getLogger(__name__)


def proxy_variables(token: str | None) -> dict[str, str]:
    """Return the environment variables that make Ray Serve's proxies load the middleware; the token is hashed."""
    return dict([CALLBACK]) | {TOKEN_SHA256: "" if token is None else _sha256(token).hex()}


def middlewares() -> list[Middleware]:
    """Return the middleware for Ray Serve's proxies; each proxy calls this function before starting its server."""
    auto.AutoHTTPProtocol = bounded_protocol(auto.AutoHTTPProtocol)  # Ray Serve has no option for this
    checksum, token = os.environ.get(TOKEN_SHA256), os.environ.get(TOKEN)
    if checksum is not None:
        return [Middleware(Front, bytes.fromhex(checksum) or None)]
    return [Middleware(Front, _sha256(token) if token else None)]


class Front:
    """ASGI middleware for proxies. Only complete, authorised requests reach the wrapped application.

    Args:
        token_sha256: SHA-256 of the required token; None allows requests without a token, but only to a loopback host.
    """

    def __init__(self, app: ASGIApp, token_sha256: bytes | None) -> None:
        self._app, self._token = app, token_sha256
        self._receiving, self._in_flight, self._buffered = Semaphore(MAX_RECEIVING), Semaphore(MAX_IN_FLIGHT), 0
        self._limit = _RateLimit()
        self._page = resources.files(__package__).joinpath("assets/page.html").read_text(encoding="utf-8")
        self._requests = Counter("syncclip_serve_requests", "Completed requests.", ("path", "status"))
        bounds = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
        self._seconds = Histogram("syncclip_serve_seconds", "Request duration in seconds.", bounds, ("path",))
        self._bytes = Gauge("syncclip_serve_held_bytes", "Size of all request bodies buffered in a proxy, in bytes.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        start, path = time.perf_counter(), scope["path"] if scope["path"] in ROUTES else "other"
        incoming = _Incoming(receive, self._limit)
        try:
            response = await self._respond(scope, incoming)
        except HTTPException as error:
            response = error_response(error)
            response.headers["connection"] = "close"
        except _DisconnectedError:
            return
        self._requests.inc(tags={"path": path, "status": str(response.status_code)})
        self._seconds.observe(time.perf_counter() - start, tags={"path": path})

        async def send_unfinished(message: Message) -> None:
            await send({**message, "more_body": not incoming.complete} if "body" in message else message)

        with suppress(asyncio.TimeoutError):  # uvicorn closes the connection of an incomplete response
            await asyncio.wait_for(response(scope, incoming, send_unfinished), BODY_SECONDS)
            if not incoming.complete:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(incoming.discard(), LINGER_SECONDS)
                await send({"type": "http.response.body", "body": b""})

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        path, headers = scope["path"], Headers(scope=scope)
        self._check_access(path, headers)
        if path not in ROUTES:
            raise HTTPException(404, "not found; use POST /classify or GET /")
        if scope["method"] != ROUTES[path]:
            raise HTTPException(405, f"{path} takes {ROUTES[path]} only", {"allow": ROUTES[path]})
        if path == "/classify":
            return await self._classify(scope, receive, headers)
        while (message := await receive()).get("more_body"):
            if message["body"]:
                raise HTTPException(400, f"GET {path} takes no body")
        if path == "/model":
            return await self._forward_limited(scope, _replay(bytearray(), receive))
        if path == "/":
            return HTMLResponse(self._page, headers={"content-security-policy": POLICY, "cache-control": "no-store"})
        health = await self._forward(
            {**scope, "path": HEALTH, "raw_path": HEALTH.encode()}, _replay(bytearray(), receive)
        )
        status = health.status_code
        return JSONResponse({"status": "ok" if status == 200 else "unavailable"}, status)

    def _check_access(self, path: str, headers: Headers) -> None:
        if self._token is None:
            if path != HEALTH and not is_loopback(host_of(headers.get("host", ""))):  # a probe uses the pod's address
                raise HTTPException(421, "the Host header must be localhost; use http://127.0.0.1, or set a token")
        elif path not in PUBLIC:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_sha256(token.strip()), self._token):
                message = "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
                raise HTTPException(401, message, {"www-authenticate": "Bearer"})

    async def _classify(self, scope: Scope, receive: Receive, headers: Headers) -> Response:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MAX_BODY_BYTES:
            raise _too_large()
        body, received = bytearray(), 0
        try:
            if self._receiving.locked():
                raise _at_capacity()
            async with self._receiving:
                try:
                    await asyncio.wait_for(self._receive_body(receive, body), BODY_SECONDS)
                except asyncio.TimeoutError:
                    raise HTTPException(
                        408, f"the body did not arrive within {BODY_SECONDS:g} s; scale the image down"
                    ) from None
            received = len(body)
            return await self._forward_limited(scope, _replay(body, receive))
        finally:
            self._count_buffered(-max(received, len(body)))
            body.clear()  # a task's error keeps its frames and thus the body alive until garbage collection

    async def _forward_limited(self, scope: Scope, receive: Receive) -> Response:
        """Forward a request within the limits on requests in flight and on response time."""
        if self._in_flight.locked():
            raise _at_capacity()
        async with self._in_flight:
            try:
                response = await asyncio.wait_for(self._forward(scope, receive), RESPONSE_SECONDS)
            except asyncio.TimeoutError:
                raise _at_capacity() from None
        if response.status_code >= 500:  # with Ray Serve's own message
            raise _at_capacity() if response.status_code == 503 else internal_error()
        return response

    async def _receive_body(self, receive: Receive, body: bytearray) -> None:
        """Append the request's body to `body`.

        A body must not exceed the remaining buffer memory (dynamic thresholds, as in packet buffers). With n large
        bodies, 1 / (n + 1) of the memory remains for small bodies.
        """
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _DisconnectedError
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(chunk) > MAX_BODY_BYTES:
                raise _too_large()
            if len(body) + len(chunk) > MAX_BUFFERED_BYTES - self._buffered:
                raise _at_capacity()
            body += chunk
            self._count_buffered(len(chunk))

    def _count_buffered(self, change: int) -> None:
        self._buffered += change
        self._bytes.set(self._buffered)

    async def _forward(self, scope: Scope, receive: Receive) -> Response:
        """Return Ray Serve's complete response; buffering keeps slow clients from occupying a replica."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, collect)
        except Exception:
            log.exception("a request failed")
            raise internal_error() from None
        if not messages:
            raise _DisconnectedError
        response = Response(b"".join(message.get("body", b"") for message in messages), messages[0]["status"])
        response.raw_headers = list(messages[0]["headers"])
        return response


class _DisconnectedError(Exception):
    """Raised if the client has closed the connection."""


class _RateLimit:
    """Rate limit shared by all large bodies of a proxy."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def wait(self, count: int) -> None:
        """Wait until the rate limit permits `count` more bytes."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + count / BYTES_PER_SECOND
        await asyncio.sleep(self._free_at - now)


class _Incoming:
    """ASGI `receive` that throttles large bodies and records whether the request is complete."""

    def __init__(self, receive: Receive, limit: _RateLimit) -> None:
        self._receive, self._limit, self._bytes, self.complete = receive, limit, 0, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.complete = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self._bytes += count
        if self._bytes > UNTHROTTLED_BYTES:
            await self._limit.wait(count)
        return message

    async def discard(self) -> None:
        """Receive and discard the rest of the body, up to the maximum body size."""
        remaining = MAX_BODY_BYTES
        while not self.complete and remaining > 0:
            remaining -= len((await self()).get("body", b""))


def bounded_protocol(base: Any) -> Any:
    """Return a subclass of uvicorn's HTTP protocol that closes connections with oversized or slow headers."""

    class BoundedProtocol(base):  # type: ignore[misc]
        _timer: TimerHandle | None = None
        _header_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()
                return
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self.transport.close()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

        def connection_lost(self, error: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(error)

        def _stop_timer(self) -> None:
            self._header_bytes = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedProtocol


class Batches:
    """Dynamic batching: images that arrive during a forward pass form the next batch; a lone image is not delayed.

    Without a wait time, `serve.batch` would create a separate batch for each image that arrives during a forward pass.
    """

    def __init__(self, compute: Callable[[list[Tensor]], Any]) -> None:
        self._compute = compute
        self._queue: SimpleQueue[tuple[Tensor, Future[Any]]] = SimpleQueue()
        Thread(target=self._work, name="batches", daemon=True).start()

    async def __call__(self, pixels: Tensor) -> Any:
        """Return the result of `compute` for an image (3, S, S)."""
        future: Future[Any] = Future()
        self._queue.put((pixels, future))
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            batch = [item for item in batch if item[1].set_running_or_notify_cancel()]  # clients may have disconnected
            try:
                rows = self._compute([pixels for pixels, _ in batch])
            except Exception as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), row in zip(batch, rows, strict=True):
                    future.set_result(row)


class Replica:
    """Endpoints of a replica for complete requests: `/classify`, and `/model`, which describes the model.

    Args:
        top: number of classes to return per image, unless a request sets `top`.
        neighbours: whether to return training images to requests that set `neighbours`.
    """

    def __init__(self, model: Model, top: int = 5, neighbours: bool = False) -> None:
        from syncclip.serving.neighbours import Neighbours  # imports torch

        self._model, self._top = model, top
        self._neighbours = Neighbours(model) if neighbours else None
        self._small, self._large = (ThreadPoolExecutor(count, "decode") for count in (DECODERS - 1, 1))
        self._decoders = threading.local()
        self._batches = Batches(self._compute)
        bounds = [1, 2, 4, 8, 16, BATCH]
        self._sizes = replica_metrics.Histogram("syncclip_serve_batch_images", "Images per forward pass.", bounds)
        model.probabilities([Image.new("RGB", (64, 64))])  # encodes the texts before the first request

    def app(self) -> ASGIApp:
        """Return the ASGI application that runs behind a `Front`."""
        handlers: dict[Any, Any] = dict.fromkeys((HTTPException, UserError, Exception), _handle_error)
        routes = [Route("/classify", self.classify, methods=["POST"]), Route("/model", self.model, methods=["GET"])]
        return Starlette(routes=routes, exception_handlers=handlers)

    async def model(self, _: Request) -> Response:
        """Return the run's name, folder, method, CLIP model and candidate classes, and whether it is calibrated."""
        model, metadata = self._model, self._model.metadata
        description = {
            "name": model.recipe.name,
            "folder": short_path(model.url.rstrip("/")),
            "method": model.recipe.training.method,
            "backbone": metadata.clip,
            "classes": [name for name, other in zip(model.classes, model.others.tolist(), strict=True) if not other],
            "calibrated": metadata.temperature != 1,
        }
        return JSONResponse(description)

    async def classify(self, request: Request) -> Response:
        """Return the most probable classes for the image in the body, or for each image file in a form.

        If the request sets `neighbours`, also return this many of the nearest training images of the most probable
        class, or an empty list if none are available.
        """
        top, count = _integer(request, "top", self._top), _integer(request, "neighbours", 0)
        content_type, body = request.headers.get("content-type", ""), await request.body()
        pool = self._small if len(body) <= SMALL_BYTES else self._large
        images = await asyncio.get_running_loop().run_in_executor(pool, self._pixels, content_type, body)
        rows = np.stack(await asyncio.gather(*map(self._batches, images)))
        predictions: list[dict[str, Any]] = [
            {"labels": [{"class": label.name, "probability": label.probability} for label in labels]}
            for labels in self._model.labels(rows, top)
        ]
        if count:
            for prediction, pixels, label in zip(predictions, images, rows.argmax(axis=1).tolist(), strict=True):
                nearest = self._neighbours and self._neighbours.nearest
                prediction["neighbours"] = await asyncio.to_thread(nearest, pixels, label, count) if nearest else []
        return JSONResponse(predictions[0] if len(predictions) == 1 else {"predictions": predictions})

    def _pixels(self, content_type: str, body: bytes) -> list[Tensor]:
        """Return a (3, S, S) tensor for each image in a request body."""
        if not hasattr(self._decoders, "decoder"):
            self._decoders.decoder = Decoder()
        return [self._model.preprocess(image) for image in self._decoders.decoder.images(content_type, body)]

    def _compute(self, pixels: list[Tensor]) -> Any:
        import torch

        self._sizes.observe(len(pixels))
        return self._model.batch_probabilities(torch.stack(pixels))


def _integer(request: Request, name: str, default: int) -> int:
    """Return a positive integer from the query, or the default."""
    value = request.query_params.get(name)
    if value is not None and (not re.fullmatch("[0-9]{1,4}", value) or int(value) < 1):
        raise UserError(f"{name}: {cut(value)!r} is not an integer between 1 and 9999; use e.g. ?{name}=3")
    return default if value is None else int(value)


async def _handle_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        error = HTTPException(400, str(error)) if isinstance(error, UserError) else internal_error()
    return error_response(error)


def error_response(error: HTTPException) -> Response:
    """Return the response for an error, as JSON with a one-line message."""
    return JSONResponse({"error": error.detail.rstrip(".")}, error.status_code, error.headers)


def internal_error() -> HTTPException:
    """Return an HTTP error for an unexpected exception, without details."""
    return HTTPException(500, "internal error; see the service's log for details")


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is larger than the limit of {size(MAX_BODY_BYTES)}; scale the image down")


def _at_capacity() -> HTTPException:
    return HTTPException(503, "the service is at capacity; retry later", {"retry-after": "1"})


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _replay(body: bytearray, receive: Receive) -> Receive:
    """Return a `receive` that first returns the buffered body and frees it, then forwards subsequent messages."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed, content = True, bytes(body)
        body.clear()
        return {"type": "http.request", "body": content, "more_body": False}

    return replay
