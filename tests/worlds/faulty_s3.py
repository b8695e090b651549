"""A proxy that injects faults into requests to a local S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import aiohttp
from aiohttp import web

Torn = Literal["503", "500", "429", "403", "404", "reset", "reset upload", "reset answer", "lost", "slow", "hang"]
Spoilt = Literal["flip", "short", "checksum", "wrong size", "cut listing", "error in 200", "garbage"]
Fault = Literal[Torn, Spoilt]
"""Faults of a request:

* a number: response with this status, and the request is not executed;
* `reset`: connection reset before the request is executed;
* `reset upload`: the same in the middle of the request's body;
* `reset answer`: executed, and reset in the middle of the response's body;
* `lost`: executed, and reset before the response;
* `slow`: response in small pieces with pauses;
* `hang`: no response until the client gives up;
* `flip`: a flipped bit in the response's body;
* `short`: half of the body, with a matching length and range;
* `checksum`: a wrong checksum in the response, or an error about the checksum of the request;
* `wrong size`: HEAD with half the size;
* `cut listing`: a listing without every second entry;
* `error in 200`: not executed, with the error in the body and status 200;
* `garbage`: a body of random bytes.
"""

PASSING: tuple[Fault, ...] = ("503", "500", "429", "reset", "reset upload", "reset answer", "lost", "slow")
"""Faults that a client should survive without a timeout."""

DAMAGING: tuple[Spoilt, ...] = get_args(Spoilt)
"""Faults with a complete but wrong response."""

CODES = {
    "503": "SlowDown",
    "500": "InternalError",
    "429": "TooManyRequests",
    "403": "SignatureDoesNotMatch",
    "404": "NoSuchUpload",
}
PIECE, PAUSE = 4096, 0.002
"""Bytes of a slow response between two pauses, and seconds of a pause."""


@dataclass
class FaultyS3:
    """Injects faults into the next matching requests, or into a fraction of all requests, and counts them.

    with faulty_s3(backend) as proxy:
        proxy.spoil("503", times=3, method="PUT")   # the next three uploads
        proxy.spoil_some(0.05, seed=1)              # 5 % of all requests
        proxy.soothe()                              # no more faults
    """

    endpoint: str = ""
    """`http://127.0.0.1:PORT`, for `endpoint_url` or AWS_ENDPOINT_URL_S3."""
    seen: list[str] = field(default_factory=list)
    """`METHOD /path?query` of each request, including failed ones."""
    spoilt: Counter[str] = field(default_factory=Counter)
    """Fault -> number of requests."""
    latency: float = 0.0
    """Delay of each response in seconds."""
    unconditional: bool = False
    """Ignore `If-Match` and `If-None-Match`, as some object stores do."""
    luck: random.Random = field(default_factory=lambda: random.Random(0))
    """Determines the position of damage."""
    _next: list[Fault] = field(default_factory=list)
    _method: str | None = None
    _query: str = ""
    _rate: float = 0.0
    _kinds: Sequence[Fault] = PASSING
    _random: random.Random = field(default_factory=random.Random)

    def spoil(
        self, fault: Fault, times: int = 1, method: str | None = None, query: str = "", then: Sequence[Fault] = ()
    ) -> None:
        """Inject a fault into the next requests with this method (None: any) and text in their query; reset counts.

        Args:
            times: number of requests with `fault`.
            then: faults of the following requests.
        """
        self.seen.clear()
        self.spoilt.clear()
        self._next, self._method, self._query = [*[fault] * times, *then], method, query

    def spoil_some(self, rate: float, kinds: Sequence[Fault] = PASSING, seed: int = 0) -> None:
        """Inject one of `kinds` into this fraction of all requests."""
        self._rate, self._kinds, self._random = rate, kinds, random.Random(seed)

    def soothe(self) -> None:
        """Stop injecting faults."""
        self._next, self._rate = [], 0.0

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Return the fault of a request, and record both."""
        self.seen.append(f"{method} {path}")
        fault = None
        if self._next and self._method in (None, method) and self._query in path.partition("?")[2]:
            fault = self._next.pop(0)
        elif self._random.random() < self._rate:
            fault = self._random.choice(self._kinds)
        if fault is not None:
            self.spoilt[fault] += 1
        return fault


@contextlib.contextmanager
def faulty_s3(backend: str) -> Iterator[FaultyS3]:
    """Run a proxy for the server at `backend` (`http://host:port`) within the block."""
    proxy = FaultyS3()
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> web.AppRunner:
        application = web.Application(client_max_size=1 << 30)
        session = aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(force_close=True))

        async def handle(request: web.Request) -> web.StreamResponse:
            return await _answer(request, proxy, backend, session)

        async def close(_: web.Application) -> None:
            await session.close()

        application.router.add_route("*", "/{path:.*}", handle)
        application.on_cleanup.append(close)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.endpoint = f"http://{host}:{port}"
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        hanging = asyncio.all_tasks(loop)
        for task in hanging:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*hanging, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run, name="faulty-s3", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)


async def _answer(
    request: web.Request, proxy: FaultyS3, backend: str, session: aiohttp.ClientSession
) -> web.StreamResponse:
    fault = proxy.next_fault(request.method, request.raw_path)
    if proxy.latency:
        await asyncio.sleep(proxy.latency)
    if fault in CODES:
        await request.read()
        text = f"<?xml version='1.0'?><Error><Code>{CODES[fault]}</Code><Message>injected</Message></Error>"
        return web.Response(status=int(fault), text=text, content_type="application/xml")
    if fault == "hang":
        await asyncio.sleep(3600)
    if fault == "reset upload":
        await request.content.readany()
    if fault in ("reset", "reset upload"):
        return _torn(request)
    if fault == "error in 200" or (fault == "checksum" and request.method in ("PUT", "POST")):
        await request.read()
        code, status = ("InternalError", 200) if fault == "error in 200" else ("BadDigest", 400)
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
        return web.Response(status=status, text=text, content_type="application/xml")
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    if proxy.unconditional:
        headers = {name: value for name, value in headers.items() if not name.lower().endswith("-match")}
    target = aiohttp.client.URL(backend + request.raw_path, encoded=True)
    body = await request.read()
    async with session.request(request.method, target, headers=headers, data=body, allow_redirects=False) as answer:
        data = await answer.read()
        if fault == "lost":
            return _torn(request)
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                response.headers.add(name, value)
        length = int(answer.headers.get("Content-Length", len(data)))
        if fault in DAMAGING and answer.status < 300:
            data, length = _damaged(fault, data, length, response.headers, proxy.luck)
        if "Content-Length" in answer.headers:
            response.content_length = length
        elif answer.status != 204:
            response.content_length = len(data)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if fault == "reset answer":
            await response.write(data[: len(data) // 2])
            await asyncio.sleep(0.01)
            return _torn(request)
        if fault == "slow":
            for start in range(0, len(data), PIECE):
                await response.write(data[start : start + PIECE])
                await asyncio.sleep(PAUSE)
        else:
            await response.write(data)
        await response.write_eof()
        return response


def _damaged(
    fault: Fault, data: bytes, length: int, headers: MutableMapping[str, str], luck: random.Random
) -> tuple[bytes, int]:
    """Return the damaged body and its declared length."""
    if fault == "wrong size" and not data:
        return data, length // 2
    if fault == "checksum":
        for name in [name for name in headers if name.lower().startswith("x-amz-checksum-crc")]:
            headers[name] = headers[name].translate(str.maketrans("ABCDEFabcdef", "BCDEFAbcdefa"))
    if fault == "cut listing" and b"<ListBucketResult" in data:
        entries = re.findall(rb"<Contents>.*?</Contents>", data, re.DOTALL)
        for entry in entries[::2]:
            data = data.replace(entry, b"")
    if fault == "flip" and data:
        position = luck.randrange(len(data))
        data = data[:position] + bytes([data[position] ^ 1 << luck.randrange(8)]) + data[position + 1 :]
    if fault == "garbage":
        data = luck.randbytes(len(data))
    if fault == "short" and data:
        data = data[: len(data) // 2]
        if (match := re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))) is not None:
            headers["Content-Range"] = f"bytes {match[1]}-{int(match[1]) + len(data) - 1}/{match[2]}"
    return data, len(data) if data else length


_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


def _torn(request: web.Request) -> web.StreamResponse:
    """Reset the connection, or end it if a forked process holds a copy of the socket."""
    if request.transport is not None:
        peer = request.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the client has closed it
            peer.shutdown(socket.SHUT_RDWR)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
