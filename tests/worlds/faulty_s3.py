"""A proxy in front of an S3 server of this machine that spoils requests, as networks and busy object stores do."""

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
"""What can happen to a request:

* a number: the server's refusal with this status, without having done anything;
* `reset`: the connection is torn down before any answer, and nothing was done;
* `reset upload`: the same in the middle of the request's body;
* `reset answer`: done, but torn down in the middle of the answer's body;
* `lost`: done, but torn down instead of any answer;
* `slow`: the answer comes in small pieces with pauses between them;
* `hang`: no answer until the client gives up;
* `flip`: one bit of the answer's body is another;
* `short`: half of the body, and a length and range that say so;
* `checksum`: an answer whose checksum doesn't fit, or to what was sent that its own doesn't;
* `wrong size`: a HEAD that says half the size;
* `cut listing`: every second entry is left out;
* `error in 200`: nothing was done, which the body says and the status doesn't;
* `garbage`: a body of random bytes.
"""

PASSING: tuple[Fault, ...] = ("503", "500", "429", "reset", "reset upload", "reset answer", "lost", "slow")
"""Those that a client should survive without waiting for a timeout."""

DAMAGING: tuple[Spoilt, ...] = get_args(Spoilt)
"""Those whose answer looks whole, and is wrong."""

CODES = {
    "503": "SlowDown",
    "500": "InternalError",
    "429": "TooManyRequests",
    "403": "SignatureDoesNotMatch",
    "404": "NoSuchUpload",
}
PIECE, PAUSE = 4096, 0.002
"""Bytes of a slow answer between two pauses, and seconds of a pause."""


@dataclass
class FaultyS3:
    """Spoils the next requests that match, or some share of all; counts what it did.

    with faulty_s3(backend) as proxy:
        proxy.spoil("503", times=3, method="PUT")   # the next three
        proxy.spoil_some(0.05, seed=1)              # each 20th or so from now on, by any passing fault
        proxy.soothe()                              # none any more
    """

    endpoint: str = ""
    """`http://127.0.0.1:PORT`, for `endpoint_url` or AWS_ENDPOINT_URL_S3."""
    seen: list[str] = field(default_factory=list)
    """`METHOD /path?query` of each request that arrived, spoilt ones too."""
    spoilt: Counter[str] = field(default_factory=Counter)
    """Fault -> requests that it hit."""
    latency: float = 0.0
    """Seconds that every answer takes longer."""
    unconditional: bool = False
    """Whether `If-Match` and `If-None-Match` are ignored, as some stores do."""
    luck: random.Random = field(default_factory=lambda: random.Random(0))
    """Where an answer is damaged."""
    _next: list[Fault] = field(default_factory=list)
    _method: str | None = None
    _query: str = ""
    _rate: float = 0.0
    _kinds: Sequence[Fault] = PASSING
    _random: random.Random = field(default_factory=random.Random)

    def spoil(
        self, fault: Fault, times: int = 1, method: str | None = None, query: str = "", then: Sequence[Fault] = ()
    ) -> None:
        """Spoil the next requests of a method (None: any) whose query holds a text; forgets what was seen before.

        The first `times` of them meet `fault`, those after it what `then` lists, one each.
        """
        self.seen.clear()
        self.spoilt.clear()
        self._next, self._method, self._query = [*[fault] * times, *then], method, query

    def spoil_some(self, rate: float, kinds: Sequence[Fault] = PASSING, seed: int = 0) -> None:
        """Spoil this share of the requests from now on, each by one of `kinds`."""
        self._rate, self._kinds, self._random = rate, kinds, random.Random(seed)

    def soothe(self) -> None:
        """Let all requests pass from now on."""
        self._next, self._rate = [], 0.0

    def next_fault(self, method: str, path: str) -> Fault | None:
        """What happens to a request that arrives now."""
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
    """A proxy before the server at `backend` (`http://host:port`) that lives as long as the block."""
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
    """What is answered instead, and the length that is claimed; an answer without a body has nothing to damage."""
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
        place = luck.randrange(len(data))
        data = data[:place] + bytes([data[place] ^ 1 << luck.randrange(8)]) + data[place + 1 :]
    if fault == "garbage":
        data = luck.randbytes(len(data))
    if fault == "short" and data:
        data = data[: len(data) // 2]
        if (given := re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))) is not None:
            headers["Content-Range"] = f"bytes {given[1]}-{int(given[1]) + len(data) - 1}/{given[2]}"
    return data, len(data) if data else length


_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


def _torn(request: web.Request) -> web.StreamResponse:
    """Tear the connection down at once: with a reset, or, where a forked process still holds a copy, with an end."""
    if request.transport is not None:
        peer = request.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # the client was quicker
            peer.shutdown(socket.SHUT_RDWR)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()
