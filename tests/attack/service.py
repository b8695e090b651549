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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from PIL import Image

from syncclip.serving.app import LINGER_SECONDS
from syncclip.serving.decoding import CPU_SECONDS
from tests.serving.served import Served, served

STALLED, DRIPPING, LARGE, SCANS = 200, 200, 4, 4
"""Clients of each kind at the same time."""
ROUNDS, QUIET_SECONDS = 3, 15.0
SETTLING_SECONDS = CPU_SECONDS + LINGER_SECONDS
"""After an attack, the service may need this long to end its decoders and connections."""
HEAD = b"POST /classify HTTP/1.1\r\nhost: localhost\r\n"


@dataclass
class Measurement:
    """Measurements of an honest client: latencies in seconds, memory in bytes."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    health_longest: float = 0.0
    """Longest response time of `/healthz`."""
    memory_before: int = 0
    """Peak memory in the quiet period before the first attack."""
    memory_peak: int = 0
    peaks: Counter[str] = field(default_factory=Counter)
    """Peak memory of each kind of process."""
    responses: Counter[str] = field(default_factory=Counter)
    """Responses to attackers, by kind and status; 0: the connection was closed."""

    @property
    def p95(self) -> float:
        """95th percentile of the latencies."""
        return float(np.quantile(self.latencies, 0.95))


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


async def _stall(port: int, responses: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"content-length: 1000000\r\n\r\n" + bytes(1000))
    await _finish("stalled", reader, writer, responses)


async def _drip(port: int, responses: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")

    async def drip() -> None:
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.2)

    dripping = asyncio.ensure_future(drip())
    await _finish("dripping", reader, writer, responses)
    dripping.cancel()


async def _large(port: int, responses: Counter[str]) -> None:
    for length in (b"content-length: 300000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        piece, chunked = bytes(1 << 20), b"chunked" in length
        response = asyncio.ensure_future(_finish("large", reader, writer, responses))
        with contextlib.suppress(OSError):
            writer.write(HEAD + length)
            for _ in range(300):
                if response.done():
                    break
                writer.write(b"100000\r\n%s\r\n" % piece if chunked else piece)
                await writer.drain()
        await response


async def _scans(port: int, responses: Counter[str]) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + many_scans() + b"\r\n"
    body = part * 4 + b"--x--\r\n"
    head = HEAD + b"content-type: multipart/form-data; boundary=x\r\ncontent-length: %d\r\n\r\n" % len(body)
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            writer.write(head + body)
            await writer.drain()
        await _finish("scans", reader, writer, responses)
        await asyncio.sleep(0.5)


async def _finish(
    kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, responses: Counter[str]
) -> None:
    line = b""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        line = await reader.readline()
    responses[f"{kind} {line.split()[1].decode() if line else 0}"] += 1
    writer.close()


async def _attack(port: int, seconds: float) -> Counter[str]:
    responses: Counter[str] = Counter()

    async def again(client: Callable[[int, Counter[str]], Coroutine[Any, Any, None]]) -> None:
        while True:
            with contextlib.suppress(OSError):
                await client(port, responses)
            await asyncio.sleep(0.1)

    clients = [_stall] * STALLED + [_drip] * DRIPPING + [_large] * LARGE + [_scans] * SCANS
    tasks = [asyncio.ensure_future(again(client)) for client in clients]
    await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    return responses


def _memory(service: Served) -> Counter[str]:
    """Bytes of the proxy, the replicas and their decoders."""
    memory: Counter[str] = Counter()
    for process in psutil.Process(service.command.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            for kind in ("ServeReplica", "ProxyActor", "serving.decoding"):
                if kind in line:
                    memory[kind] += process.memory_info().rss
    return memory


def _measure(service: Served, seconds: float, result: Measurement) -> None:
    """Add an honest client's requests to a measurement; `ask` repeats requests that get a 503."""
    ended, image = threading.Event(), picture()

    def watch() -> None:
        while not ended.wait(0.5):
            start = time.monotonic()
            assert service.ask("/healthz")[0] == 200
            result.health_longest = max(result.health_longest, time.monotonic() - start)
            memory = _memory(service)
            result.memory_peak = max(result.memory_peak, sum(memory.values()))
            result.peaks |= memory

    watcher = threading.Thread(target=watch)
    watcher.start()
    end = time.monotonic() + seconds
    while (start := time.monotonic()) < end:
        status, _ = service.ask("/classify", image)
        result.failed += status != 200
        result.latencies.append(time.monotonic() - start)
        time.sleep(0.05)
    ended.set()
    watcher.join()


def _use_idle_cpus() -> None:
    """Lower the priority of this process, and on Linux that of its session, which the scheduler treats as a unit."""
    os.nice(19)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write("19")


def attacked(run: str, seconds: float) -> tuple[Measurement, Measurement]:
    """Serve a run, and measure an honest client in quiet and under attack, in alternating periods.

    Periods alternate because the load of a busy machine changes. The attackers run at the lowest priority: elsewhere
    they would not use the service's CPUs.

    Args:
        seconds: length of each attack.
    """
    quiet, attack = Measurement(), Measurement()
    with served(run) as service:
        for _ in range(20):
            service.ask("/classify", picture())
        for _ in range(ROUNDS):
            _measure(service, QUIET_SECONDS, quiet)
            attack.memory_before = attack.memory_before or quiet.memory_peak
            command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__]
            clients = subprocess.Popen(
                [*command, "--clients", str(service.port), str(seconds)],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=_use_idle_cpus,
            )
            _measure(service, seconds, attack)
            attack.responses.update(json.loads(clients.communicate()[0]))
            time.sleep(SETTLING_SECONDS)
        assert service.ask("/classify", picture())[0] == 200, "the service works afterwards"
        assert service.command.poll() is None
    return quiet, attack


if __name__ == "__main__":
    if sys.argv[1] == "--clients":
        print(json.dumps(asyncio.run(_attack(int(sys.argv[2]), float(sys.argv[3])))))
    else:
        for measurement in attacked(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 200.0):
            print(json.dumps(vars(measurement) | {"latencies": len(measurement.latencies), "p95": measurement.p95}))
