"""A Ray head and nodes that join it, all on this machine: their ports, folder and processes are separate from those of
any other Ray."""

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
"""Above those that Ray gives its workers, below those that Linux gives to whoever asks for any."""

PATIENCE = 600.0
"""Seconds after which something is broken; busy machines take long to start Ray."""

ATTEMPTS = 5
"""How often a node's start is tried; Ray gives up on a node after 30 s, and on some of its parts after 15 s."""

VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray requires a token where an earlier `ray.init` of the user left one; here nobody has it.
    "RAY_AUTH_MODE": "disabled",
    # By default a worker yields to all else that this machine does, and whoever waits for it waits long.
    "RAY_worker_niceness": "0",
    # Otherwise a node that is stopped waits half a minute for its last task, while some of Ray's own never end.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}

MARK = "SYNCCLIP_HEAD"
"""Variable by which all processes of a head are known: they write titles over their command lines."""

NODE_PORTS = (
    "node-manager",
    "object-manager",
    "metrics-export",
    "runtime-env-agent",
    "dashboard-agent-listen",
    "dashboard-agent-grpc",
)


class NotUpError(RuntimeError):
    """A node ended, or never came; the message is its log."""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} ports between {PORTS.start} and {PORTS.stop} are free")


class Head:
    """A head, and what joins it, until the end of a `with` block.

    Attributes:
        port: at which nodes join.
        address: of the dashboard, as `syncclip submit` takes it.
        to_join: variables by which a program's `ray.init` joins it.
        folder: for what Ray stores in /tmp/ray by default.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        """Nothing runs yet.

        Args:
            folder: empty, with a short path: it holds sockets, whose names the system limits.
            variables: of the environment of all nodes.
        """
        self.port, self._dashboard, self._client = free_ports(3)
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self.to_join = {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_AUTH_MODE": VARIABLES["RAY_AUTH_MODE"]}
        self.folder = folder
        bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # A job's `python` is looked up on the PATH with which the head was started.
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
        """Start the head with options of `ray start`.

        Its dashboard answers before its own node is there, which may still fail: the node is waited for.

        Raises:
            NotUpError: it didn't start.
        """
        ports = f"--port={self.port}", f"--dashboard-port={self._dashboard}", f"--ray-client-server-port={self._client}"
        self._up("--head", *ports, *options)

    def join(self, *options: str) -> None:
        """Start a node that joins, with options of `ray start`.

        It has its own folder: a node unpacks a job's files over existing ones, while others may use them.

        Raises:
            NotUpError: it didn't start.
        """
        self._up(f"--address=127.0.0.1:{self.port}", *options)

    def _up(self, *options: str) -> None:
        self._joined += 1
        for attempt in range(1, ATTEMPTS + 1):
            folder = self.folder if self._joined == 1 else self.folder / str(self._joined)
            log = self.folder / f"node-{self._joined}-{attempt}.log"
            known = set(self._nodes)
            if self._comes(self._node(log, [f"--temp-dir={folder}", *options]), known):
                return
            if attempt == ATTEMPTS:
                raise NotUpError(log.read_text(errors="replace"))

    def _node(self, log: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
        ports = [f"--{name}-port={port}" for name, port in zip(NODE_PORTS, free_ports(6), strict=True)]
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--min-worker-port=0"]
        command = [*ray, "--max-worker-port=0", *ports, *options]
        with log.open("wb") as told:
            self._started.append(
                subprocess.Popen(command, env=self._environment, stdout=told, stderr=told, start_new_session=True)
            )
        return self._started[-1]

    def _comes(self, process: subprocess.Popen[bytes], known: set[str]) -> bool:
        waited(lambda: bool(self.nodes().keys() - known) or process.poll() is not None)
        return bool(self.nodes().keys() - known) and process.poll() is None

    def nodes(self) -> dict[str, bool]:
        """Id of each node that lives -> whether it is the head; as before where the dashboard is too busy to answer."""
        token = self._environment.get("RAY_AUTH_TOKEN")
        asked = urllib.request.Request(
            f"{self.address}/nodes?view=summary&nocache=1",
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        with (
            contextlib.suppress(OSError, ValueError, KeyError),
            urllib.request.urlopen(asked, timeout=10) as answer,
        ):
            nodes = [node["raylet"] for node in json.load(answer)["data"]["summary"]]
            self._nodes = {node["nodeId"]: bool(node["isHeadNode"]) for node in nodes if node["state"] == "ALIVE"}
        return self._nodes

    def lose(self, node: str = "") -> None:
        """Pull a node's plug, or all: kill processes until none is left, since those listed may have started others."""
        while found := self.processes(node):
            for process in found:
                with contextlib.suppress(psutil.Error):  # ended meanwhile, as daemons do that lose one another
                    process.kill()
            psutil.wait_procs(found, timeout=30)

    def processes(self, node: str = "") -> list[psutil.Process]:
        """All its processes, or those of the node with this id, including workers."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get(MARK) == str(self.folder)
                if ours and node in " ".join(process.cmdline()):
                    found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
        return list(found.values())


def waited(there: Callable[[], bool], pause: float = 0.25) -> bool:
    """Wait for a condition; returns whether it held within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
