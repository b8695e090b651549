"""A Ray head and worker nodes on this machine, isolated from other Ray clusters (own ports, folder and processes)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

PORTS = range(20_000, 32_000)
"""Ports above those of Ray's workers and below Linux's ephemeral ports."""

PATIENCE = 600.0
"""Timeout in seconds; starting Ray on a busy machine is slow."""

ATTEMPTS = 5
"""Number of attempts to start a node; Ray's own timeouts are 30 s for a node and 15 s for some components."""

VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise, Ray would require the token that an earlier `ray.init` of the user has created.
    "RAY_AUTH_MODE": "disabled",
    # By default, workers have a low CPU priority.
    "RAY_worker_niceness": "0",
    # Otherwise, a stopped node would wait half a minute for its last tasks, some of which are Ray's own and never end.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}

MARK = "SYNCCLIP_HEAD"
"""Environment variable that identifies a head's processes, since Ray processes overwrite their command lines."""

NODE_PORTS = (
    "node-manager",
    "object-manager",
    "metrics-export",
    "runtime-env-agent",
    "dashboard-agent-listen",
    "dashboard-agent-grpc",
)


class NotUpError(RuntimeError):
    """A node failed to start; the error message is the node's log."""


def free_ports(count: int) -> list[int]:
    """Return distinct unused ports."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"fewer than {count} ports between {PORTS.start} and {PORTS.stop} are free")


class Head:
    """Context manager for a head and its worker nodes.

    Attributes:
        port: port that worker nodes join.
        address: dashboard address, for `syncclip submit`.
        to_join: environment variables that make a program's `ray.init` join the cluster.
        folder: folder used instead of /tmp/ray.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        """
        Args:
            folder: empty folder with a short path, since the length of socket paths is limited.
            variables: environment variables of all nodes.
        """
        self.port, self._dashboard, self._client = free_ports(3)
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self.to_join = {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_AUTH_MODE": VARIABLES["RAY_AUTH_MODE"]}
        self.folder = folder
        bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # A job's `python` is looked up on the head's PATH.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**bare, **VARIABLES, "PATH": path, **variables, MARK: str(folder)}
        self._started: list[subprocess.Popen[bytes]] = []
        self._joined = 0
        self._nodes: dict[str, bool] = {}

    def __enter__(self) -> Head:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            process.terminate()
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()
        self.lose()

    def start(self, *options: str) -> None:
        """Start the head with `ray start` options, and wait for its own node, retrying if it fails to start."""
        ports = f"--port={self.port}", f"--dashboard-port={self._dashboard}", f"--ray-client-server-port={self._client}"
        self._up("--head", *ports, *options)

    def join(self, *options: str) -> None:
        """Start a worker node with `ray start` options, in its own folder, to keep nodes from overwriting files."""
        self._up(f"--address=127.0.0.1:{self.port}", *options)

    def _up(self, *options: str) -> None:
        self._joined += 1
        for attempt in range(1, ATTEMPTS + 1):
            folder = self.folder if self._joined == 1 else self.folder / str(self._joined)
            log = self.folder / f"node-{self._joined}-{attempt}.log"
            existing = set(self._nodes)
            if self._joins(self._node(log, [f"--temp-dir={folder}", *options]), existing):
                return
            if attempt == ATTEMPTS:
                raise NotUpError(log.read_text(errors="replace"))

    def _node(self, log: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
        ports = [f"--{name}-port={port}" for name, port in zip(NODE_PORTS, free_ports(6), strict=True)]
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--min-worker-port=0"]
        command = [*ray, "--max-worker-port=0", *ports, *options]
        with log.open("wb") as output:
            self._started.append(
                subprocess.Popen(command, env=self._environment, stdout=output, stderr=output, start_new_session=True)
            )
        return self._started[-1]

    def _joins(self, process: subprocess.Popen[bytes], existing: set[str]) -> bool:
        waited(lambda: bool(self.nodes().keys() - existing) or process.poll() is not None)
        return bool(self.nodes().keys() - existing) and process.poll() is None

    def nodes(self) -> dict[str, bool]:
        """Return live node ID -> whether it is the head, or the last result if the dashboard does not respond."""
        token = self._environment.get("RAY_AUTH_TOKEN")
        request = urllib.request.Request(
            f"{self.address}/nodes?view=summary&nocache=1",
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        with (
            contextlib.suppress(OSError, ValueError, KeyError),
            urllib.request.urlopen(request, timeout=10) as response,
        ):
            nodes = [node["raylet"] for node in json.load(response)["data"]["summary"]]
            self._nodes = {node["nodeId"]: bool(node["isHeadNode"]) for node in nodes if node["state"] == "ALIVE"}
        return self._nodes

    def lose(self, node: str = "") -> None:
        """Kill all processes of a node, or of all nodes."""
        while processes := self.processes(node):
            for process in processes:
                with contextlib.suppress(psutil.Error):  # already ended
                    process.kill()
            psutil.wait_procs(processes, timeout=30)

    def processes(self, node: str = "") -> list[psutil.Process]:
        """Return the processes of all nodes, or of the node with this ID, including workers."""
        processes: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get(MARK) == str(self.folder)
                if ours and node in " ".join(process.cmdline()):
                    processes |= {member.pid: member for member in [process, *process.children(recursive=True)]}
        return list(processes.values())


def waited(condition: Callable[[], bool], pause: float = 0.25) -> bool:
    """Wait for a condition; return False after the timeout `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
