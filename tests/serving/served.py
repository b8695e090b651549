"""`syncclip serve` in a process of its own, and an HTTP client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.ray_head import free_ports

PATIENCE = 600.0
"""Timeout in seconds of a start, a response or an exit."""


@dataclass(frozen=True)
class Served:
    """A running service."""

    command: subprocess.Popen[str]
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON or text of a response; POST if there is a body."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET" if body is None else "POST", path, body, headers)
            output = connection.getresponse()
            text = output.read().decode()
            return output.status, json.loads(text) if output.headers["content-type"] == "application/json" else text

    def metrics(self) -> list[Any]:
        """Samples at the metrics port of the service's Ray; empty if it is too busy to respond."""
        [raylet] = [item for item in psutil.Process(self.command.pid).children() if item.name() == "raylet"]
        [socket] = [word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--raylet_socket_name=")]
        [port] = [file.read_text() for file in Path(socket).parents[1].glob("metrics_export_port_*")]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            return [sample for family in families for sample in family.samples]
        return []

    def replicas(self) -> list[psutil.Process]:
        """The processes of replicas."""
        children = psutil.Process(self.command.pid).children(recursive=True)
        return [item for item in children if item.is_running() and "::ServeReplica" in " ".join(item.cmdline())]


@contextlib.contextmanager
def served(run: str, *options: str, **variables: str) -> Iterator[Served]:
    """Serve a run on this machine until the end of the block."""
    [port] = free_ports(1)
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "SYNCCLIP_DEBUG")}
    command = subprocess.Popen(
        [sys.executable, "-m", "syncclip", "serve", run, "--port", str(port), *options],
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert command.stdout is not None
        line = command.stdout.readline()
        assert line.startswith("http://") and line.endswith(f":{port}\n"), command.communicate()
        yield Served(command, port)
    finally:
        if command.poll() is None:
            command.terminate()
        command.communicate(timeout=PATIENCE)
