"""The endpoint behind its middleware: in this process, and on a real server like those of Ray Serve's proxies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import io
import json
import select
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from syncclip.inference.model import Model, load
from syncclip.runtime.hosts import host_of, is_loopback
from syncclip.serving import app as serving
from syncclip.serving.app import (
    BATCH,
    CALLBACK,
    MAX_BODY_BYTES,
    TOKEN,
    TOKEN_SHA256,
    Batches,
    Front,
    Replica,
    _Incoming,
    _RateLimit,
    bounded_protocol,
    proxy_variables,
)
from syncclip.serving.decoding import MAX_FILES
from tests.inference.conftest import Train
from tests.ray_head import free_ports

PATIENCE = 120.0
SECRET = "open sesame"


@dataclass
class Reply:
    """A response of an ASGI application, and the bytes of the body it had received by then."""

    status: int
    headers: dict[str, str]
    body: bytes
    received: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one sentence of an error response."""
        assert 400 <= self.status < 500 and list(self.json) == ["error"], self
        sentence: str = self.json["error"]
        assert sentence and "\n" not in sentence and not sentence.endswith(".")
        return sentence


def post(app: Any, path: str, body: Iterable[bytes] = (), method: str = "POST", **headers: str) -> Reply:
    """Send a request whose body comes in pieces to an ASGI application."""
    route, _, query = path.partition("?")
    pieces, messages, received = iter(body), [], 0
    raw = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()
    ]
    scope = {"type": "http", "method": method, "path": route, "query_string": query.encode(), "headers": raw}

    async def receive() -> dict[str, Any]:
        nonlocal received
        piece = next(pieces, None)
        received += len(piece or b"")
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(app({**scope, "http_version": "1.1", "root_path": "", "scheme": "http"}, receive, send))
    response_headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    content = b"".join(message.get("body", b"") for message in messages[1:])
    return Reply(messages[0]["status"], response_headers, content, received)


def form(*files: tuple[str, bytes], field: str = "image") -> dict[str, Any]:
    """Body and headers of a form with files."""
    head = '--x\r\nContent-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'
    parts = [part for name, data in files for part in (head.format(field, name).encode(), data, b"\r\n")]
    return {"body": [*parts, b"--x--\r\n"], "content_type": "multipart/form-data; boundary=x"}


@pytest.fixture
def model(train: Train) -> Model:
    return load(train("training.method=zeroshot").url)


@pytest.fixture
def app(model: Model) -> Any:
    return Front(Replica(model, top=3).app(), None)


def test_an_image_comes_as_a_form_or_alone(app: Any, model: Model, images: Path) -> None:
    data = (images / "03.png").read_bytes()
    expected = model.classify(images / "03.png", top=3)
    for reply in (
        post(app, "/classify", **form(("bus.png", data))),
        post(app, "/classify", [data], content_type="image/png"),
        post(app, "/classify", [data[:100], data[100:]]),
    ):
        labels = reply.json["labels"]
        assert [label["class"] for label in labels] == [label.name for label in expected]
        probabilities = [label["probability"] for label in labels]
        assert probabilities == pytest.approx([label.probability for label in expected], abs=1e-6)
    assert len(post(app, "/classify?top=2", [data]).json["labels"]) == 2


def test_several_files_have_their_predictions_in_order(app: Any, model: Model, images: Path) -> None:
    files = sorted(images.iterdir())
    reply = post(app, "/classify", **form(*((file.name, file.read_bytes()) for file in files)))
    best = [labels[0].name for labels in model.classify(files, top=1)]
    assert [prediction["labels"][0]["class"] for prediction in reply.json["predictions"]] == best


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_model_is_described_with_its_candidate_classes(model: Model, temperature: float) -> None:
    model.metadata = model.metadata.model_copy(update={"temperature": temperature})
    model.others[1] = True
    description = post(Front(Replica(model).app(), None), "/model", method="GET").json
    assert description == {
        "name": model.recipe.name,
        "folder": "/".join(Path(model.url).parts[-2:]),
        "method": "zeroshot",
        "backbone": model.metadata.clip,
        "classes": [name for name in model.classes if name != model.classes[1]],
        "calibrated": temperature == 2,
    }


def test_invalid_requests_get_one_sentence(app: Any, images: Path) -> None:
    data, bomb = (images / "00.png").read_bytes(), io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(bomb, "PNG")
    for status, error, reply in (
        (400, "pixels", post(app, "/classify", **form(("bomb.png", bomb.getvalue())))),
        (400, "notes.txt: unreadable image: not a JPEG", post(app, "/classify", **form(("notes.txt", b"no image")))),
        (400, "the body is empty", post(app, "/classify")),
        (400, "unreadable image", post(app, "/classify", **form(("empty.png", b"")))),
        (400, "b.png: unreadable", post(app, "/classify", **form(("a.png", data), ("b.png", data[:60])))),
        (400, "no file in the `image` field", post(app, "/classify", **form(("a.png", data), field="picture"))),
        (400, "boundary", post(app, "/classify", [data], content_type="multipart/form-data")),
        (400, "Too many files", post(app, "/classify", **form(*[("a.png", data)] * (MAX_FILES + 1)))),
        (404, "POST /classify", post(app, "/nowhere")),
        (404, "POST /classify", post(app, "/metrics", method="GET")),
        (405, "/model takes GET only", post(app, "/model", [data])),
        (405, "/classify takes POST only", post(app, "/classify", method="GET")),
        (405, "/healthz takes GET only", post(app, "/healthz", [data])),
        (400, "GET / takes no body", post(app, "/", [data], method="GET")),
    ):
        assert reply.status == status and error in reply.error
    assert post(app, "/classify", [data]).status == 200


def test_a_body_that_is_too_large_is_not_read(app: Any) -> None:
    mega, length = bytes(1 << 20), 300_000_000
    reply = post(app, "/classify", [mega] * 300, content_length=str(length), content_type="image/png")
    assert reply.status == 413 and "larger than the limit of 33.6 MB" in reply.error
    assert reply.received <= MAX_BODY_BYTES + 2 * len(mega), "received so that the client reads the response"
    for kind in ("image/png", "application/json", "multipart/form-data; boundary=x"):
        begin = form(("a.png", b""))["body"][:1] if kind.startswith("multi") else []
        chunked = post(app, "/classify", [*begin, *[mega] * 300], content_type=kind)
        assert chunked.status == 413 and "larger than" in chunked.error
        assert chunked.received <= 2 * MAX_BODY_BYTES + 4 * len(mega), "rejected while it arrives"


@pytest.mark.parametrize("limit", ["MAX_BODY_BYTES", "MAX_IN_FLIGHT", "RESPONSE_SECONDS"])
def test_the_body_of_a_rejected_request_is_freed_before_garbage_collection(
    app: Any, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 << 20
    monkeypatch.setattr(serving, limit, {"MAX_BODY_BYTES": size, "MAX_IN_FLIGHT": 0, "RESPONSE_SECONDS": 0.0}[limit])
    app = Front(app, None)
    pieces = [bytes(1 << 19)] * 8
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            reply = post(app, "/classify", [*pieces, b"end"] if limit == "MAX_BODY_BYTES" else pieces)
            assert reply.status in (413, 503)
        assert tracemalloc.get_traced_memory()[0] < size
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_token_is_required_except_for_page_and_health(model: Model, images: Path) -> None:
    app = Front(Replica(model).app(), hashlib.sha256(SECRET.encode()).digest())
    data = (images / "00.png").read_bytes()
    for header in ({}, {"authorization": "Bearer open"}, {"authorization": f"Basic {SECRET}"}, {"authorization": ""}):
        for path in ("/classify", "/-/routes", "/nowhere"):
            reply = post(app, path, [data], **header)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert "token is missing or wrong" in reply.error
        assert post(app, "/model", method="GET", **header).status == 401, "describes the run"
    assert post(app, "/model", method="GET", authorization=f"Bearer {SECRET}").json["method"] == "zeroshot"
    assert post(app, "/classify", [data], authorization=f"bearer {SECRET}").status == 200
    page = post(app, "/", method="GET")
    assert page.status == 200 and b"<!doctype html>" in page.body
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("top", ["0", "-1", "%C2%B2", "9" * 5000, "00001", "1e3", "1_0", "", "%00", "10000"])
def test_an_invalid_number_of_classes_is_rejected(app: Any, images: Path, top: str) -> None:
    reply = post(app, f"/classify?top={top}", [(images / "00.png").read_bytes()])
    assert reply.status == 400 and "is not an integer between" in reply.error


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e3", "\u00b2".encode().decode("latin-1"), "33554433"])
def test_an_invalid_or_too_large_length_is_rejected(app: Any, length: str) -> None:
    assert post(app, "/classify", content_length=length).status == 413


def test_images_that_arrive_during_a_forward_pass_are_the_next_batch() -> None:
    sizes, started, go = [], threading.Event(), threading.Event()

    def compute(pixels: list[torch.Tensor]) -> list[float]:
        sizes.append(len(pixels))
        started.set()
        assert go.wait(60)
        return [float(image) for image in pixels]

    batches = Batches(compute)
    with ThreadPoolExecutor(BATCH + 9) as clients:
        first = clients.submit(lambda: asyncio.run(batches(torch.tensor(-1.0))))
        assert started.wait(60), "a lone image waits for no other"
        others = [clients.submit(lambda n=n: asyncio.run(batches(torch.tensor(float(n))))) for n in range(BATCH + 8)]
        while batches._queue.qsize() < len(others):
            assert not any(future.done() for future in others)
        go.set()
        assert [future.result() for future in (first, *others)] == [-1.0, *map(float, range(BATCH + 8))]
    assert sizes == [1, BATCH, 8]


def test_a_failed_batch_affects_no_other_and_cancelled_images_are_skipped() -> None:
    computed: list[list[float]] = []

    def compute(pixels: list[torch.Tensor]) -> list[float]:
        computed.append([float(image) for image in pixels])
        if 13.0 in computed[-1]:
            raise RuntimeError("unlucky")
        return computed[-1]

    async def work() -> None:
        batches = Batches(compute)
        cancelled = asyncio.ensure_future(batches(torch.tensor(7.0)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(RuntimeError, match="unlucky"):
            await batches(torch.tensor(13.0))
        assert await batches(torch.tensor(1.0)) == 1.0

    asyncio.run(work())
    assert computed[-1] == [1.0]


def test_a_defect_is_reported_without_details(model: Model, images: Path) -> None:
    replica = Replica(model)
    replica._batches = Batches(lambda pixels: 1 / 0)
    reply = post(Front(replica.app(), None), "/classify", [(images / "00.png").read_bytes()])
    assert (reply.status, reply.json) == (500, {"error": "internal error; see the service's log for details"})


class Work:
    """Stands for Ray Serve: responds with the number of bytes it received, once `go` is set."""

    def __init__(self) -> None:
        self.go, self.running = threading.Event(), 0
        self.go.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert scope["path"] in ("/classify", "/model", "/-/healthz") and not message["more_body"]
        if scope["path"] != "/-/healthz":
            self.running += 1
            while not self.go.is_set():
                await asyncio.sleep(0.01)
            self.running -= 1
        body = str(len(message["body"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


Start = Callable[..., int]
Answer = tuple[int, dict[str, str], bytes]


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
    """Status, headers and body; status 0: the connection was closed without a response."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while b"\r\n\r\n" not in received and (more := client.recv(1 << 16)):
            received = (received + more).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not received:
            return 0, {}, b""
        start, _, body = received.partition(b"\r\n\r\n")
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


def readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 1.0)[0])


def test_slow_clients_take_nothing_from_others_and_end_by_their_deadline(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "BODY_SECONDS", 3.0)
    port = start()
    slow = [connect(port) for _ in range(200)]
    for number, client in enumerate(slow):
        client.sendall(head(None) if number % 2 else head(1000, "expect: 100-continue" if number % 4 else "x: y"))

    def drip(client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while not readable(client):
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


def test_headers_have_a_timeout_and_a_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_SECONDS", 2.0)
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


def test_requests_beyond_the_limits_get_a_503_while_health_is_served(
    start: Start, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_IN_FLIGHT", 4)
    port = start()
    work.go.clear()
    with ThreadPoolExecutor(4) as clients:
        busy = [clients.submit(ask, port, b"12345") for _ in range(4)]
        while work.running < 4:
            time.sleep(0.01)
        status, headers, body = ask(port, b"12345")
        assert (status, headers["retry-after"]) == (503, "1") and list(json.loads(body)) == ["error"]
        assert ask(port, path="/model", method="GET")[0] == 503
        assert ask(port, path="/healthz", method="GET")[0] == 200
        work.go.set()
        assert [future.result()[0] for future in busy] == [200] * 4
    assert ask(port, b"12345")[::2] == (200, b"5")


def test_a_request_that_takes_too_long_is_a_503(start: Start, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "RESPONSE_SECONDS", 0.5)
    port = start()
    work.go.clear()
    assert ask(port, b"12345")[0] == 503
    work.go.set()
    monkeypatch.setattr(serving, "RESPONSE_SECONDS", PATIENCE)
    assert ask(port, b"12345")[0] == 200


def test_large_bodies_share_a_bounded_memory_and_leave_room_for_small_ones(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_BUFFERED_BYTES", 1 << 20)
    monkeypatch.setattr(serving, "MAX_BODY_BYTES", 1 << 20)
    port = start()
    large = [connect(port) for _ in range(30)]
    for client in large:
        client.sendall(head(700_000) + bytes(300_000))
    rejected = [client for client in large if readable(client)]
    assert len(rejected) >= 27, "four of them would exceed the memory"
    for client in rejected:
        status, headers, _ = answer(client)
        assert (status, headers["retry-after"]) == (503, "1")
    assert ask(port, bytes(10_000))[::2] == (200, b"10000")
    for client in large:
        client.close()


def test_large_bodies_share_the_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(1 << 20), "more_body": True}

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def receive_bodies() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.0)
        limit = _RateLimit()
        for _ in range(2):
            body = _Incoming(receive, limit)
            for _ in range(6):
                await body()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(receive_bodies())
    assert pauses == [number * (1 << 20) / serving.BYTES_PER_SECOND for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("length", [300_000_000, None])
def test_a_body_of_300_mb_is_rejected_with_a_response_that_arrives(start: Start, length: int | None) -> None:
    port, piece = start(), bytes(1 << 20)
    with connect(port) as client:
        client.sendall(head(length))
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                client.sendall(piece if length else b"%x\r\n%s\r\n" % (len(piece), piece))
        status, headers, body = answer(client)
        assert (status, headers["connection"]) == (413, "close") and b"the limit of 33.6 MB" in body
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
    variables = proxy_variables(SECRET)
    assert "sesame" not in str(variables) and variables[CALLBACK[0]] == CALLBACK[1]
    port = start(bytes.fromhex(variables[TOKEN_SHA256]))
    assert ask(port, b"x", "/classify", "POST", "host: clip.example.org")[0] == 401
    bearer = f"authorization: Bearer {SECRET}"
    assert ask(port, b"x", "/classify", "POST", "host: clip.example.org", bearer)[0] == 200
    for path in ("/-/routes", "//-/routes", "/-/routes?x", "/-/%72outes"):
        assert ask(port, b"", path, "GET", bearer)[0] == 404
        assert ask(port, b"", path, "GET")[0] == 401


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, None), ({TOKEN: "a"}, "a"), ({TOKEN_SHA256: ""}, None), ({TOKEN_SHA256: "", TOKEN: "a"}, None)],
)
def test_a_proxy_reads_the_token_from_its_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None
) -> None:
    for name in (TOKEN, TOKEN_SHA256):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    [middleware] = serving.middlewares()
    checksum = None if expected is None else bytes.fromhex(proxy_variables(expected)[TOKEN_SHA256])
    assert middleware.args == (checksum,)


def test_hosts() -> None:
    assert [host_of(text) for text in ("a:1", "[::1]:2", "1.2.3.4", "[x", "")] == ["a", "::1", "1.2.3.4", "", ""]
    local = [is_loopback(host) for host in ("::1", "127.0.0.2", "localhost", "::", "10.0.0.1", "x", "")]
    assert local == [True] * 3 + [False] * 4
