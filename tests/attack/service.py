"""Clients that try to stop the service, beside an honest one whose latency is measured.

`python -m tests.attack.service RUN [SECONDS]` serves a finished run, attacks it, and prints the result as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
from PIL import Image

from tests.serving.served import Served, served

STALLED, DRIPPING, LARGE, SCANS = 200, 200, 4, 4
"""Clients of each kind at the same time."""
QUIET_SECONDS = 15.0
HEAD = b"POST /classify HTTP/1.1\r\nhost: localhost\r\n"


@dataclass
class Result:
    """Latencies in seconds and memory in bytes, without (quiet) and under attack."""

    seconds: float
    quiet_p50: float = 0.0
    quiet_p95: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    requests: int = 0
    failed: int = 0
    health_longest: float = 0.0
    memory_quiet: int = 0
    memory_peak: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    """Peak of each kind of process."""
    works_afterwards: bool = False
    attackers: dict[str, int] = field(default_factory=dict)
    """Answers to attackers, by kind and status; 0: the connection was closed."""


def picture() -> bytes:
    """An honest client's image."""
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((224, 224)).save(buffer, "JPEG")
    return buffer.getvalue()


def many_scans(count: int = 10_000) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)
    Image.fromarray(pixels).resize((2000, 2000)).save(buffer, "JPEG", progressive=True, quality=5)
    data = buffer.getvalue()
    last = min((data[data.rindex(b"\xff\xda") : -2], data[data.rindex(b"\xff\xda") :][:64]), key=len)
    return data[:-2] + last * count + data[-2:]


async def _stall(port: int, told: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"content-length: 1000000\r\n\r\n" + bytes(1000))
    await _finish("stalled", reader, writer, told)


async def _drip(port: int, told: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")

    async def drip() -> None:
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.2)

    dripping = asyncio.ensure_future(drip())
    await _finish("dripping", reader, writer, told)
    dripping.cancel()


async def _large(port: int, told: Counter[str]) -> None:
    for length in (b"content-length: 300000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        piece, chunked = bytes(1 << 20), b"chunked" in length
        response = asyncio.ensure_future(_finish("large", reader, writer, told))
        with contextlib.suppress(OSError):
            writer.write(HEAD + length)
            for _ in range(300):
                if response.done():
                    break
                writer.write(b"100000\r\n%s\r\n" % piece if chunked else piece)
                await writer.drain()
        await response


async def _scans(port: int, told: Counter[str]) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + many_scans() + b"\r\n"
    body = part * 4 + b"--x--\r\n"
    head = HEAD + b"content-type: multipart/form-data; boundary=x\r\ncontent-length: %d\r\n\r\n" % len(body)
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            writer.write(head + body)
            await writer.drain()
        await _finish("scans", reader, writer, told)
        await asyncio.sleep(0.5)


async def _finish(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: Counter[str]) -> None:
    line = b""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        line = await reader.readline()
    told[f"{kind} {line.split()[1].decode() if line else 0}"] += 1
    writer.close()


async def _attack(port: int, seconds: float) -> Counter[str]:
    told: Counter[str] = Counter()

    async def again(client: Callable[[int, Counter[str]], Coroutine[Any, Any, None]]) -> None:
        while True:
            with contextlib.suppress(OSError):
                await client(port, told)
            await asyncio.sleep(0.1)

    clients = [_stall] * STALLED + [_drip] * DRIPPING + [_large] * LARGE + [_scans] * SCANS
    tasks = [asyncio.ensure_future(again(client)) for client in clients]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    return told


def _memory(service: Served) -> Counter[str]:
    """Bytes of the proxy, the replicas and their decoders."""
    found: Counter[str] = Counter()
    for process in psutil.Process(service.command.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            for kind in ("ServeReplica", "ProxyActor", "serving.decoding"):
                if kind in line:
                    found[kind] += process.memory_info().rss
    return found


def _measure(service: Served, seconds: float, result: Result) -> list[float]:
    """Latencies of an honest client's requests, which it repeats where it is told to."""
    ended, latencies, image = threading.Event(), [], picture()

    def watch() -> None:
        while not ended.wait(0.5):
            begun = time.monotonic()
            assert service.ask("/healthz")[0] == 200
            result.health_longest = max(result.health_longest, time.monotonic() - begun)
            memory = _memory(service)
            result.memory_peak = max(result.memory_peak, sum(memory.values()))
            result.peaks = {kind: max(count, result.peaks.get(kind, 0)) for kind, count in memory.items()}

    watcher = threading.Thread(target=watch)
    watcher.start()
    end = time.monotonic() + seconds
    while (begun := time.monotonic()) < end:
        status, _ = service.ask("/classify", image)
        result.requests += 1
        result.failed += status != 200
        latencies.append(time.monotonic() - begun)
        time.sleep(0.05)
    ended.set()
    watcher.join()
    return latencies


def attacked(run: str, seconds: float) -> Result:
    """Serve a run, measure an honest client in quiet and under attack, and look whether the service works afterwards.

    The attackers run at the lowest priority: elsewhere they would not use the service's CPUs.
    """
    with served(run) as service:
        for _ in range(20):
            service.ask("/classify", picture())
        result = Result(seconds)
        quiet = _measure(service, QUIET_SECONDS, result)
        result = Result(seconds, memory_quiet=result.memory_peak)
        result.quiet_p50, result.quiet_p95 = (float(one) for one in np.quantile(quiet, [0.5, 0.95]))
        command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__]
        attackers = subprocess.Popen(
            [*command, "--clients", str(service.port), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.nice(19),
        )
        latencies = _measure(service, seconds, result)
        result.attackers = json.loads(attackers.communicate()[0])
        result.p50, result.p95 = (float(one) for one in np.quantile(latencies, [0.5, 0.95]))
        result.works_afterwards = service.ask("/classify", picture())[0] == 200 and service.command.poll() is None
    return result


if __name__ == "__main__":
    if sys.argv[1] == "--clients":
        print(json.dumps(asyncio.run(_attack(int(sys.argv[2]), float(sys.argv[3])))))
    else:
        print(json.dumps(asdict(attacked(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 600.0)), indent=2))
