"""The front on a real server of the proxies' kind: slow, large and many requests, hosts, health while all is taken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from syncclip.runtime.hosts import host_of, is_loopback
from syncclip.serving import front
from syncclip.serving.front import CALLBACK, TOKEN, TOKEN_SHA256, Front, bounded_protocol, proxy_variables
from tests.ray_head import free_ports

PATIENCE = 120.0
Answer = tuple[int, dict[str, str], bytes]


class Work:
    """In place of Ray Serve: answers with the number of bytes it received, once `go` is set."""

    def __init__(self) -> None:
        self.go, self.running = threading.Event(), 0
        self.go.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert scope["path"] in ("/classify", "/-/healthz") and not message["more_body"]
        if scope["path"] == "/classify":
            self.running += 1
            while not self.go.is_set():
                await asyncio.sleep(0.01)
            self.running -= 1
        body = str(len(message["body"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


Start = Callable[..., int]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol])
def start(request: pytest.FixtureRequest, work: Work) -> Iterator[Start]:
    """Starts the server and returns its port."""
    servers = []

    def run(token: bytes | None = None) -> int:
        [port] = free_ports(1)
        app, protocol = Front(work, token), bounded_protocol(request.param)
        server = uvicorn.Server(uvicorn.Config(app, port=port, http=protocol, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run)
        servers.append((server, thread))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        return port

    yield run
    work.go.set()
    for server, thread in servers:
        server.should_exit = server.force_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def head(length: int | None, *lines: str, path: str = "/classify", method: str = "POST") -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = lines if any(line.startswith("host") for line in lines) else ("host: localhost", *lines)
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, size, "", ""]).encode()


def answer(client: socket.socket) -> Answer:
    """Status, headers and body; status 0: the connection was closed without an answer."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while b"\r\n\r\n" not in said and (more := client.recv(1 << 16)):
            said = (said + more).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not said:
            return 0, {}, b""
        start, _, body = said.partition(b"\r\n\r\n")
        first, *lines = start.decode().split("\r\n")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        while len(body) < int(headers.get("content-length", 0)):
            body += client.recv(1 << 16)
        return int(first.split()[1]), headers, body
    return 0, {}, b""


def ask(port: int, body: bytes = b"", path: str = "/classify", method: str = "POST", *lines: str) -> Answer:
    with connect(port) as client:
        client.sendall(head(len(body), *lines, "connection: close", path=path, method=method) + body)
        return answer(client)


def test_slow_clients_take_nothing_from_others_and_end_by_their_deadline(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "BODY_SECONDS", 3.0)
    port = start()
    slow = [connect(port) for _ in range(200)]
    for number, client in enumerate(slow):
        client.sendall(head(None) if number % 2 else head(1000, "expect: 100-continue" if number % 4 else "x: y"))

    def drip(client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while not _readable(client):
                client.sendall(b"1\r\na\r\n" if number % 2 else b"a")

    for number, client in enumerate(slow[:20]):
        threading.Thread(target=drip, args=(client, number), daemon=True).start()
    for _ in range(10):
        assert ask(port, b"12345")[0] == 200
        assert ask(port, path="/healthz", method="GET")[::2] == (200, b'{"status":"ok"}')
    for client in slow:
        status, _, body = answer(client)
        assert status == 408 and b"did not arrive within 3 s" in body
        client.close()


def test_headers_have_a_deadline_and_a_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "HEAD_SECONDS", 2.0)
    port = start()
    for sent in (b"", b"POST", b"POST /classify HTTP/1.1\r\nhost: localhost\r\nx: "):
        with connect(port) as client:
            client.sendall(sent)
            assert answer(client)[0] == 0
    with connect(port) as client:
        client.sendall(head(2) + b"ab")
        assert answer(client)[0] == 200
        client.sendall(b"POST /classify HTTP/1.1\r\nx: ")
        assert answer(client)[0] == 0, "the second request of a connection, too"
    with connect(port) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"POST /classify HTTP/1.1\r\n")
        for number in range(10_000):
            client.sendall(b"x-%d: " % number + b"y" * 1000 + b"\r\n")
        pytest.fail("the header is not bounded")


def test_requests_beyond_the_limits_are_told_to_retry_while_health_answers(
    start: Start, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "WORKING", 4)
    port = start()
    work.go.clear()
    with ThreadPoolExecutor(4) as clients:
        busy = [clients.submit(ask, port, b"12345") for _ in range(4)]
        while work.running < 4:
            time.sleep(0.01)
        status, headers, body = ask(port, b"12345")
        assert (status, headers["retry-after"]) == (503, "1") and list(json.loads(body)) == ["error"]
        assert ask(port, path="/healthz", method="GET")[0] == 200
        work.go.set()
        assert [one.result()[0] for one in busy] == [200] * 4
    assert ask(port, b"12345")[::2] == (200, b"5")


def test_a_request_that_takes_too_long_is_a_503(start: Start, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "ANSWER_SECONDS", 0.5)
    port = start()
    work.go.clear()
    assert ask(port, b"12345")[0] == 503
    work.go.set()
    monkeypatch.setattr(front, "ANSWER_SECONDS", PATIENCE)
    assert ask(port, b"12345")[0] == 200


def test_large_bodies_share_a_bounded_memory_and_leave_room_for_small_ones(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "HELD_BYTES", 1 << 20)
    monkeypatch.setattr(front, "MOST_BYTES", 1 << 20)
    port = start()
    large = [connect(port) for _ in range(30)]
    for client in large:
        client.sendall(head(700_000) + bytes(300_000))
    refused = [client for client in large if _readable(client)]
    assert len(refused) >= 27, "four of them would exceed the memory"
    for client in refused:
        status, headers, _ = answer(client)
        assert (status, headers["retry-after"]) == (503, "1")
    assert ask(port, bytes(10_000))[::2] == (200, b"10000")
    for client in large:
        client.close()


def _readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 1.0)[0])


@pytest.mark.parametrize("length", [300_000_000, None])
def test_a_body_of_300_mb_is_refused_with_an_answer_that_arrives(start: Start, length: int | None) -> None:
    port, piece = start(), bytes(1 << 20)
    with connect(port) as client:
        client.sendall(head(length))
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                client.sendall(piece if length else b"%x\r\n%s\r\n" % (len(piece), piece))
        status, headers, _ = answer(client)
        assert (status, headers["connection"]) == (413, "close")
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                client.sendall(piece)
            pytest.fail("the rest is received")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost", "LocalHost:80", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000")],
        *[(host, 421) for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", "192.0.2.7")],
        *[(host, 421) for host in ("", "0.0.0.0", "evil.example:80@localhost:80x", "[::1", "localhost:80:80/")],
    ],
)
def test_without_a_token_only_this_machines_names_are_hosts(start: Start, host: str, status: int) -> None:
    port = start()
    for path, method, body in (("/classify", "POST", b"x"), ("/", "GET", b""), ("/healthz", "GET", b"")):
        assert ask(port, body, path, method, f"host: {host}")[0] in {status, 400 if status == 421 else 200}


def test_with_a_token_any_host_is_served_and_the_token_is_not_in_rays_variables(start: Start) -> None:
    variables = proxy_variables("open sesame")
    assert "sesame" not in str(variables) and variables[CALLBACK[0]] == CALLBACK[1]
    port = start(bytes.fromhex(variables[TOKEN_SHA256]))
    assert ask(port, b"x", "/classify", "POST", "host: clip.example.org")[0] == 401
    bearer = "authorization: Bearer open sesame"
    assert ask(port, b"x", "/classify", "POST", "host: clip.example.org", bearer)[0] == 200
    for path in ("/-/routes", "//-/routes", "/-/routes?x", "/-/%72outes"):
        assert ask(port, b"", path, "GET", bearer)[0] == 404
        assert ask(port, b"", path, "GET")[0] == 401


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, None), ({TOKEN: "a"}, "a"), ({TOKEN_SHA256: ""}, None), ({TOKEN_SHA256: "", TOKEN: "a"}, None)],
)
def test_a_proxy_finds_the_token_in_its_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in (TOKEN, TOKEN_SHA256):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    [one] = front.middlewares()
    digest = None if expected is None else bytes.fromhex(proxy_variables(expected)[TOKEN_SHA256])
    assert one.args == (digest,)


def test_hosts() -> None:
    assert [host_of(one) for one in ("a:1", "[::1]:2", "1.2.3.4", "[x", "")] == ["a", "::1", "1.2.3.4", "", ""]
    assert [is_loopback(one) for one in ("::1", "127.0.0.2", "localhost", "::", "10.0.0.1", "x", "")] == [True] * 3 + [
        False
    ] * 4
