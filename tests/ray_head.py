"""A Ray head with a dashboard, as `ray start --head` makes it, apart from all other Rays of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0
"""Seconds after which something is broken; busy machines take long to start Ray."""

ATTEMPTS = 3
"""Starts of the head on a machine that is too busy."""


@dataclass(frozen=True)
class Head:
    """Where a head answers, and where it lays what Ray has in /tmp/ray by default."""

    address: str
    folder: Path


@contextlib.contextmanager
def ray_head(*options: str) -> Iterator[Head]:
    """A head of two CPUs, with further options of `ray start`; it ends with the `with` block."""
    for attempt in range(1, ATTEMPTS + 1):
        port, dashboard, agent, agent_grpc, metrics, client, manager, objects = free_ports(8)
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
        command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"]
        command += [f"--ray-client-server-port={client}", f"--node-manager-port={manager}"]
        command += [f"--object-manager-port={objects}", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--object-store-memory=200000000", *options]
        with tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as folder:
            log, address = Path(folder) / "head.log", f"http://127.0.0.1:{dashboard}"
            with running([*command, f"--temp-dir={folder}"], log) as process:
                if answers(f"{address}/api/version", process):
                    yield Head(address, Path(folder))
                    return
                assert attempt < ATTEMPTS, log.read_text()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process with a session of its own, ended afterwards with all that it started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # A job's `python` is looked up on the PATH with which the head was started.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    # Ray asks for a token where an earlier `ray.init` of the user left one; whether it does shouldn't decide a test.
    environment["RAY_AUTH_MODE"] = "disabled"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until `url` answers; False if the process ended instead, as Ray does where it isn't up within 30 s."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        time.sleep(0.25)
    return False
