"""A Ray head with a dashboard, as `ray start --head` makes it, apart from all other Rays of this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cluster.one_machine import PATIENCE as PATIENCE
from cluster.one_machine import Head as Head
from cluster.one_machine import free_ports as free_ports

SMALL = "--object-store-memory=200000000"
"""Option of a node whose tasks pass little to each other."""


@contextlib.contextmanager
def ray_head(*options: str) -> Iterator[Head]:
    """A head of two CPUs, with further options of `ray start`; it ends with the `with` block."""
    with (
        tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Head(Path(folder)) as head,
    ):
        head.start("--num-cpus=2", SMALL, *options)
        yield head


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process without Ray's variables, ended afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until `url` answers; False if the process ended instead."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        time.sleep(0.25)
    return False
