"""A Ray head with a dashboard, as `ray start --head` makes it, apart from all other Rays of this machine."""

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
"""Option of a node whose tasks pass little to each other."""


@contextlib.contextmanager
def ray_head(*options: str, **variables: str) -> Iterator[Head]:
    """A head of two CPUs, with further options of `ray start` and variables; it ends with the `with` block."""
    with (
        tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as folder,
        Head(Path(folder), **variables) as head,
    ):
        head.start("--num-cpus=2", SMALL, *options)
        yield head


def _marks(start: str) -> dict[psutil.Process, str]:
    """Process -> mark of its head, of those that have an argument that starts so."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, KeyError):
            if any(part.startswith(start) for part in process.cmdline()):
                found[process] = process.environ()[MARK]
    return found


def _workers(head: str, title: str) -> Callable[[], set[psutil.Process]]:
    """What lists the workers of the head at this address that are at something: Ray titles processes by it."""
    (mark,) = set(_marks(f"--dashboard-port={head.rpartition(':')[2]}").values())
    return lambda: {process for process, its in _marks(title).items() if its == mark}


@contextlib.contextmanager
def suspended(head: str, title: str) -> Iterator[None]:
    """Workers with this title stand still: on a busy machine they might be done before something else has happened."""
    held = _workers(head, title)()
    assert held, f"no process is called {title}"
    with _resumed(held):
        for process in held:
            process.suspend()
        yield


@contextlib.contextmanager
def suspended_until_two_run(head: str, title: str) -> Iterator[None]:
    """The first process with a title stands still until a second has it: on a busy machine a node may start so late
    that the other would have done all by then."""
    ended, workers = threading.Event(), _workers(head, title)

    def hold() -> None:
        held: set[psutil.Process] = set()
        with _resumed(held):
            while len(held) < 2 and not ended.wait(0.1):
                for process in workers() - held:
                    with contextlib.suppress(psutil.Error):
                        process.suspend()
                        held.add(process)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join()


@contextlib.contextmanager
def _resumed(held: set[psutil.Process]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in held:
            with contextlib.suppress(psutil.Error):
                process.resume()
