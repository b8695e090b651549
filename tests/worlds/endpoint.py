"""A fake OpenAI-compatible image endpoint that injects faults."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

MODEL = "tiny/painter"
SECRET = "sk-4711-of-the-endpoint"

Order = Callable[[int, int], str | None]
"""(seed, number of earlier requests with it) -> fault; None: an image."""


def image_of(prompt: str, seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Return the server's image for a prompt and a seed."""
    digest = hashlib.sha256(f"{seed}\0{prompt}".encode()).digest()
    tiles = np.random.default_rng(list(digest)).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(tiles).resize(size, Image.Resampling.NEAREST)


@dataclass
class Server:
    """Settings of the server, and its requests."""

    url: str = ""
    token: str | None = None
    """Required token; None: requests need none."""
    model: dict[str, Any] = field(default_factory=lambda: {"id": MODEL, "root": "/models/painter", "created": 1})
    order: Order = lambda seed, before: None
    retry_after: str | None = None
    """Value of the header Retry-After in error responses."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests for images."""
    asked: Counter[int] = field(default_factory=Counter)
    """Seed -> number of requests."""
    times: list[float] = field(default_factory=list)
    models: int = 0
    """Number of requests for the list of models."""
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return `synthesis.generator` of a recipe for this server."""
        return {"pipeline": self.url, "model": MODEL, "height": 64, "width": 64, "steps": 2, "batch_size": 4, **more}


class _Answers(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def is_unauthorised(self) -> bool:
        header = self.headers.get("Authorization")
        if self.server_state.token is None or header == f"Bearer {self.server_state.token}":
            return False
        self.answer({"error": {"message": f"Incorrect API key provided: {header}"}}, 401)
        return True

    def do_GET(self) -> None:
        if self.is_unauthorised():
            return
        if self.path == "/v1/models":
            self.server_state.models += 1
            self.server_state.model["created"] += 1  # as after a restart
            self.answer({"object": "list", "data": [self.server_state.model]})
        else:
            self.answer({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        state = self.server_state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_unauthorised():
            return
        with state.lock:
            before, state.at_once = state.asked[body["seed"]], state.at_once + 1
            state.asked[body["seed"]] += 1
            state.bodies.append(body)
            state.times.append(time.monotonic())
            state.most_at_once = max(state.most_at_once, state.at_once)
        try:
            self.make(body, state.order(body["seed"], before))
        finally:
            with state.lock:
                state.at_once -= 1

    def make(self, body: dict[str, Any], fault: str | None) -> None:
        width, height = map(int, body["size"].split("x"))
        if fault == "small":
            width, height = width // 2, height // 2
        buffer = io.BytesIO()
        image_of(body["prompt"], body["seed"], (width, height)).save(buffer, "PNG")
        data = buffer.getvalue()
        if fault == "torn image":
            data = data[: len(data) // 2]
        elif fault in ("EPS", "PPM"):
            image_of(body["prompt"], body["seed"], (width, height)).save(buffer := io.BytesIO(), fault)
            data = buffer.getvalue()
        response = json.dumps({"created": 1, "data": [{"b64_json": base64.b64encode(data).decode()}]}).encode()
        match fault:
            case "dropped":
                self.close_connection = True
            case "cut":
                self.send_response(200)
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response[: len(response) // 2])
                self.close_connection = True
            case "dripping head" | "dripping body" | "dripping chunks":
                head = b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n\r\n" * (fault == "dripping chunks")
                head += b"Connection: close\r\nContent-Length: 1000000\r\n\r\n" * (fault == "dripping body")
                self.wfile.write(head)
                with suppress(OSError):
                    while True:
                        self.wfile.write(b"1\r\nx\r\n" if fault == "dripping chunks" else b"x")
                        time.sleep(0.1)
                self.close_connection = True
            case "zipped":
                self.answer(gzip.compress(response), **{"Content-Encoding": "gzip"})
            case "large" | "large chunks":
                self.send_response(200)
                chunked = fault == "large chunks"
                self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(1 << 24))))
                self.end_headers()
                with suppress(OSError):
                    for _ in range(256):
                        self.wfile.write((b"10000\r\n%s\r\n" if chunked else b"%s") % bytes(1 << 16))
                    self.wfile.write(b"0\r\n\r\n" * chunked)
                self.close_connection = True
            case "slow":
                time.sleep(8)
                self.answer(response)
            case "garbage":
                self.answer(b"<html>\nwelcome</html>")
            case "words":
                self.answer("\x1b[2J\x9b\u202e\x07".encode(), 400)
            case "error":
                self.answer({"error": {"message": "out of memory"}})
            case "two images":
                self.answer({"data": [{"b64_json": base64.b64encode(data).decode()}] * 2})
            case "elsewhere":
                self.answer({"data": [{"url": "http://127.0.0.1:9/image.png"}]})
            case str() if fault.isdigit():
                after = self.server_state.retry_after
                headers = {"Location": "/v2", **({} if after is None else {"Retry-After": after})}
                self.answer({"detail": f"no, with {self.headers.get('Authorization')}"}, int(fault), **headers)
            case _:
                self.answer(response)


class _Listener(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None: ...


@contextmanager
def serving(**state: Any) -> Iterator[Server]:
    """Run an endpoint on this machine."""
    server = Server(**state)
    answers = type("Answers", (_Answers,), {"server_state": server})
    listener = _Listener(("127.0.0.1", 0), answers)
    server.url = f"http://127.0.0.1:{listener.server_port}/v1"
    threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
