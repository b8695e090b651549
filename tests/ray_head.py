"""A Ray head with a dashboard, as started by `ray start --head`, isolated from all other Rays of this machine."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from cluster.one_machine import MARK
from cluster.one_machine import PATIENCE as PATIENCE
from cluster.one_machine import Head as Head
from cluster.one_machine import free_ports as free_ports

SMALL = "--object-store-memory=200000000"
"""Option for a node with a small object store."""


@contextlib.contextmanager
def ray_head(*options: str, **variables: str) -> Iterator[Head]:
    """A head of two CPUs, with options of `ray start` and environment variables, until the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Head(Path(folder), **variables) as head,
    ):
        head.start("--num-cpus=2", SMALL, *options)
        yield head


def _marks(prefix: str) -> dict[psutil.Process, str]:
    """Process -> mark of its head, for processes with an argument of this prefix."""
    marks = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, KeyError):
            if any(argument.startswith(prefix) for argument in process.cmdline()):
                marks[process] = process.environ()[MARK]
    return marks


def _workers(head: str, title: str) -> Callable[[], set[psutil.Process]]:
    """A function that lists the workers of the head at this address with a title, which names their task."""
    (head_mark,) = set(_marks(f"--dashboard-port={head.rpartition(':')[2]}").values())
    return lambda: {process for process, mark in _marks(title).items() if mark == head_mark}


@contextlib.contextmanager
def suspended(head: str, title: str) -> Iterator[None]:
    """Suspend the workers with this title, which could otherwise finish too early on a busy machine."""
    workers = _workers(head, title)()
    assert workers, f"no process is called {title}"
    with _resumed(workers):
        for process in workers:
            process.suspend()
        yield


@contextlib.contextmanager
def suspended_until_two_run(head: str, title: str) -> Iterator[None]:
    """Suspend the first process with a title until a second one exists.

    On a busy machine, a node may start so late that the other one would finish all tasks.
    """
    ended, workers = threading.Event(), _workers(head, title)

    def hold() -> None:
        suspended: set[psutil.Process] = set()
        with _resumed(suspended):
            while len(suspended) < 2 and not ended.wait(0.1):
                for process in workers() - suspended:
                    with contextlib.suppress(psutil.Error):
                        process.suspend()
                        suspended.add(process)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join()


@contextlib.contextmanager
def _resumed(processes: set[psutil.Process]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()
