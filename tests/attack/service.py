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

from syncclip.serving.app import LINGER_SECONDS
from syncclip.serving.decoding import CPU_SECONDS
from tests.serving.served import Served, served

STALLED, DRIPPING, LARGE, SCANS = 200, 200, 4, 4
"""Clients of each kind at the same time."""
ROUNDS, QUIET_SECONDS = 3, 15.0
SETTLING_SECONDS = CPU_SECONDS + LINGER_SECONDS
"""After an attack, the service may need this long to end its decoders and connections."""
HEAD = b"POST /classify HTTP/1.1\r\nhost: localhost\r\n"


@dataclass(frozen=True)
class Round:
    """Latencies of an honest client in seconds, without (quiet) and then under attack."""

    quiet_p50: float
    quiet_p95: float
    p50: float
    p95: float
    health_longest: float
    """Longest response time of `/healthz` under attack."""


@dataclass
class Result:
    """Outcome of all rounds; memory in bytes.

    The load of a busy machine changes between a quiet period and the attack that follows, so latencies are compared
    within each round and judged by their median over the rounds.
    """

    seconds: float
    """Length of each attack."""
    rounds: list[Round] = field(default_factory=list)
    requests: int = 0
    failed: int = 0
    memory_quiet: int = 0
    memory_peak: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    """Peak memory of each kind of process under attack."""
    works_afterwards: bool = False
    attackers: dict[str, int] = field(default_factory=dict)
    """Responses to attackers, by kind and status; 0: the connection was closed."""

    @property
    def slowdown(self) -> float:
        """Median over the rounds of the 95th percentile under attack, relative to that of the quiet period before."""
        return float(np.median([each.p95 / each.quiet_p95 for each in self.rounds]))

    @property
    def health_longest(self) -> float:
        """Median over the rounds of the longest response time of `/healthz`, in seconds."""
        return float(np.median([each.health_longest for each in self.rounds]))


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


@dataclass
class Measurement:
    """Measurements of an honest client during one period."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    health_longest: float = 0.0
    memory_peak: int = 0
    peaks: Counter[str] = field(default_factory=Counter)


def _measure(service: Served, seconds: float) -> Measurement:
    """Measure an honest client's requests; `ask` repeats those that the service refuses temporarily."""
    ended, result, image = threading.Event(), Measurement(), picture()

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
    return result


def _use_idle_cpus() -> None:
    """Lower the priority of this process, and on Linux that of its session, which the scheduler treats as a unit."""
    os.nice(19)
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
        file.write("19")


def attacked(run: str, seconds: float) -> Result:
    """Serve a run and attack it for `seconds` in each round; measure an honest client before and during each attack.

    The attackers run at the lowest priority: elsewhere they would not use the service's CPUs.
    """
    with served(run) as service:
        for _ in range(20):
            service.ask("/classify", picture())
        result, attackers = Result(seconds), Counter[str]()
        for _ in range(ROUNDS):
            quiet = _measure(service, QUIET_SECONDS)
            command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__]
            clients = subprocess.Popen(
                [*command, "--clients", str(service.port), str(seconds)],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=_use_idle_cpus,
            )
            attack = _measure(service, seconds)
            attackers.update(json.loads(clients.communicate()[0]))
            quantiles = (float(value) for part in (quiet, attack) for value in np.quantile(part.latencies, [0.5, 0.95]))
            result.rounds.append(Round(*quantiles, attack.health_longest))
            result.requests += len(attack.latencies)
            result.failed += attack.failed
            result.memory_quiet = result.memory_quiet or quiet.memory_peak
            result.memory_peak = max(result.memory_peak, attack.memory_peak)
            result.peaks = dict(Counter(result.peaks) | attack.peaks)
            time.sleep(SETTLING_SECONDS)
        result.attackers = dict(attackers)
        result.works_afterwards = service.ask("/classify", picture())[0] == 200 and service.command.poll() is None
    return result


if __name__ == "__main__":
    if sys.argv[1] == "--clients":
        print(json.dumps(asyncio.run(_attack(int(sys.argv[2]), float(sys.argv[3])))))
    else:
        print(json.dumps(asdict(attacked(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 200.0)), indent=2))
