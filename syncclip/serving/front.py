"""The front of the service, in each HTTP proxy of Ray Serve: token, host, size limits, deadlines and load shedding.

Replicas only receive complete requests, so slow clients cannot occupy them. Ray Serve loads `middlewares` into its
proxies by the variables of `proxy_variables`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import time
from asyncio import TimerHandle
from contextlib import contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Any

from ray.util.metrics import Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from uvicorn.protocols.http import auto

from syncclip.core.text import size
from syncclip.runtime.hosts import host_of, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN, TOKEN_SHA256 = "SYNCCLIP_SERVE_TOKEN", "SYNCCLIP_SERVE_TOKEN_SHA256"
"""Variables with the token, or with its SHA-256 (hex; empty: no token), which takes precedence."""
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "syncclip.serving.front.middlewares"
"""The variable by which Ray Serve's proxies load this module, and its value."""

MOST_BYTES, HELD_BYTES = 32 << 20, 256 << 20
"""Upper bounds on the bytes of one body, and of all bodies that a proxy holds."""
READING, WORKING = 1024, 128
"""Upper bounds on requests of a proxy whose body is being received, and on those passed to replicas."""
HEAD_SECONDS, BODY_SECONDS, ANSWER_SECONDS = 10.0, 30.0, 60.0
"""Total deadlines: to receive the header, to receive the body or to send the answer, to compute the answer."""
UNPACED_BYTES, BYTES_PER_SECOND = 4 << 20, 32 << 20
"""Beyond this size a body is received at this rate, so that large uploads do not delay other requests."""
HEAD_BYTES = 64 << 10
"""Upper bound on the bytes of a header."""
LINGER_SECONDS = 2.0
"""How long a refused client may go on sending: closing at once could discard the answer on its way to it."""

HEALTH = "/-/healthz"
"""Ray Serve's own path for the state of a proxy."""
ROUTES = {"/": "GET", "/healthz": "GET", HEALTH: "GET", "/classify": "POST"}
"""Paths and their methods. All but the last are public: they reveal nothing of the run."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

log = logging.getLogger(__name__)


def proxy_variables(token: str | None) -> dict[str, str]:
    """Environment variables that make Ray Serve's proxies use this front; they do not contain the token."""
    return dict([CALLBACK]) | {TOKEN_SHA256: "" if token is None else _sha256(token).hex()}


def middlewares() -> list[Middleware]:
    """The front, for Ray Serve's proxies; called in each of them before its server starts."""
    auto.AutoHTTPProtocol = bounded_protocol(auto.AutoHTTPProtocol)  # Serve has no option for it
    return [Middleware(Front, _token_sha256())]


def _token_sha256() -> bytes | None:
    digest, token = os.environ.get(TOKEN_SHA256), os.environ.get(TOKEN)
    if digest is not None:
        return bytes.fromhex(digest) or None
    return _sha256(token) if token else None


class Front:
    """ASGI middleware that answers everything but complete, authorised requests to `/classify`, which it passes on.

    Args:
        token_sha256: of the token that requests carry; None: no token, and only requests to a loopback host.
    """

    def __init__(self, app: ASGIApp, token_sha256: bytes | None) -> None:
        self._app, self._token = app, token_sha256
        self._reading = self._working = self._held = 0
        self._page = resources.files(__package__).joinpath("assets/page.html").read_text(encoding="utf-8")
        self._answers = Counter("syncclip_serve_requests", "Answered requests.", ("path", "status"))
        bounds = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
        self._seconds = Histogram("syncclip_serve_seconds", "Duration of a request in seconds.", bounds, ("path",))
        self._bytes = Gauge("syncclip_serve_held_bytes", "Bytes of request bodies held by a proxy.")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        begun, path = time.perf_counter(), scope["path"] if scope["path"] in ROUTES else "other"
        incoming = _Incoming(receive)
        try:
            answer = await self._answer(scope, incoming)
        except HTTPException as error:
            answer = await _messages(refusal(error, {"connection": "close"}))
        except _DisconnectedError:
            return
        self._answers.inc(tags={"path": path, "status": str(answer[0]["status"])})
        self._seconds.observe(time.perf_counter() - begun, tags={"path": path})
        answer[-1]["more_body"] = not incoming.complete
        with suppress(asyncio.TimeoutError):  # uvicorn closes the connection of an incomplete answer
            await asyncio.wait_for(_send(answer, send), BODY_SECONDS)
            if not incoming.complete:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(incoming.discard(), LINGER_SECONDS)
                await send({"type": "http.response.body", "body": b""})

    async def _answer(self, scope: Scope, receive: Receive) -> list[Message]:
        path, headers = scope["path"], Headers(scope=scope)
        self._check_access(path, headers)
        if path not in ROUTES:
            raise HTTPException(404, "there is only POST /classify, and GET /")
        if scope["method"] != ROUTES[path]:
            raise HTTPException(405, f"{path} takes {ROUTES[path]} only", {"allow": ROUTES[path]})
        if path == "/classify":
            return await self._classify(scope, receive, headers)
        while (message := await receive()).get("more_body"):
            if message["body"]:
                raise HTTPException(400, f"GET {path} takes no body")
        if path == "/":
            return await _messages(
                HTMLResponse(self._page, headers={"content-security-policy": POLICY, "cache-control": "no-store"})
            )
        status = (await self._passed({**scope, "path": HEALTH, "raw_path": HEALTH.encode()}, _empty))[0]["status"]
        return await _messages(JSONResponse({"status": "ok" if status == 200 else "unavailable"}, status))

    def _check_access(self, path: str, headers: Headers) -> None:
        if self._token is None:
            if path != HEALTH and not is_loopback(host_of(headers.get("host", ""))):  # a probe names the pod's address
                raise HTTPException(421, "the Host header is not localhost; use http://127.0.0.1, or set a token")
        elif ROUTES.get(path) != "GET":
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(_sha256(given.strip()), self._token):
                sentence = "the token is missing or wrong; send it as `Authorization: Bearer TOKEN`"
                raise HTTPException(401, sentence, {"www-authenticate": "Bearer"})

    async def _classify(self, scope: Scope, receive: Receive, headers: Headers) -> list[Message]:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > MOST_BYTES:
            raise _too_large()
        body, held = bytearray(), 0
        try:
            with self._slot("_reading", READING):
                try:
                    await asyncio.wait_for(self._read(receive, body), BODY_SECONDS)
                except asyncio.TimeoutError:
                    raise HTTPException(
                        408, f"the body did not arrive within {BODY_SECONDS:g} s; scale the image down"
                    ) from None
            held, data = len(body), bytes(body)
            body = bytearray()
            with self._slot("_working", WORKING):
                try:
                    answer = await asyncio.wait_for(self._passed(scope, _replayed(data, receive)), ANSWER_SECONDS)
                except asyncio.TimeoutError:
                    raise _busy() from None
            if answer[0]["status"] >= 500:  # in Ray Serve's own words
                raise _busy() if answer[0]["status"] == 503 else failed()
            return answer
        finally:
            self._hold(-held - len(body))

    @contextmanager
    def _slot(self, name: str, most: int) -> Iterator[None]:
        if getattr(self, name) >= most:
            raise _busy()
        setattr(self, name, getattr(self, name) + 1)
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) - 1)

    async def _read(self, receive: Receive, body: bytearray) -> None:
        """Append the request's body to `body`.

        A body may take no more memory than remains free (dynamic thresholds, as in packet buffers): n large bodies
        leave 1 / (n + 1) of the memory to small ones.
        """
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                raise _DisconnectedError
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(chunk) > MOST_BYTES:
                raise _too_large()
            if len(body) + len(chunk) > HELD_BYTES - self._held:
                raise _busy()
            body += chunk
            self._hold(len(chunk))

    def _hold(self, count: int) -> None:
        self._held += count
        self._bytes.set(self._held)

    async def _passed(self, scope: Scope, receive: Receive) -> list[Message]:
        """The answer of Ray Serve, complete, so that a client that does not read it keeps no replica."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, keep)
        except Exception:
            log.exception("a request failed")
            raise failed() from None
        if not messages:
            raise _DisconnectedError
        return messages


class _DisconnectedError(Exception):
    """The client has closed the connection."""


class _Incoming:
    """A `receive` that limits the rate of large bodies and knows whether the whole request has been received."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._bytes, self.complete = receive, 0, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.complete = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self._bytes += count
        if self._bytes > UNPACED_BYTES:
            await asyncio.sleep(count / BYTES_PER_SECOND)
        return message

    async def discard(self) -> None:
        """Receive the rest and forget it, up to the size of the largest body."""
        left = MOST_BYTES
        while not self.complete and left > 0:
            left -= len((await self()).get("body", b""))


def bounded_protocol(base: Any) -> Any:
    """A subclass of uvicorn's HTTP protocol that closes connections whose header takes too long or is too large."""

    class BoundedProtocol(base):  # type: ignore[misc]
        _timer: TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()
                return
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.transport.close()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def connection_lost(self, error: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(error)

        def _stop_timer(self) -> None:
            self._head = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return BoundedProtocol


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def _empty() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body at once, and then what the client does."""
    first = [body]

    async def replay() -> Message:
        if first:
            return {"type": "http.request", "body": first.pop(), "more_body": False}
        return await receive()

    return replay


async def _messages(response: Response) -> list[Message]:
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    await response({"type": "http"}, _empty, keep)
    return messages


async def _send(messages: list[Message], send: Send) -> None:
    for message in messages:
        await send(message)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is larger than the limit of {size(MOST_BYTES)}; scale the image down")


def _busy() -> HTTPException:
    return HTTPException(503, "the service is at capacity; retry later", {"retry-after": "1"})


def failed() -> HTTPException:
    """The answer to a request that met a defect, without details."""
    return HTTPException(500, "internal error; the service's log has the details")


def refusal(error: HTTPException, headers: Mapping[str, str] | None = None) -> Response:
    """An error as one sentence of JSON."""
    return JSONResponse(
        {"error": error.detail.rstrip(".")}, error.status_code, {**(error.headers or {}), **(headers or {})}
    )
