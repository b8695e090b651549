"""Two owners of one folder: the first is stopped at a point of what it does, as long as the second takes over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from syncclip import storage
from syncclip.storage import locks, retries
from syncclip.storage.conditional_writes import read_current
from syncclip.storage.urls import configured, remote

FILE_CALLS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "shutil.rmtree"})
"""Audit events of Python that precede each call of the file system."""

PACE = ("INTERVAL", "SILENCE", "POLL", "PROMPT", "SETTLE")
"""Times of `locks`."""

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.storage.late"])

Act = Callable[[str, locks.Hold], None]


@dataclass(frozen=True)
class World:
    """What the first owner takes over from the test's process."""

    options: dict[str, Any]
    environment: dict[str, str]
    pace: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What became of the first owner, and of the folder."""

    stopped: str
    """The call before which it was stopped; "": it ended without having been stopped."""
    said: str
    """The type of the error that it ended with."""
    at_takeover: dict[str, bytes]
    at_end: dict[str, bytes]


def content(folder: str, inner: str = "") -> dict[str, bytes]:
    """Path -> bytes of all that listings show in a folder."""
    sizes = storage.sizes(folder)
    found = {inner + name: storage.read_bytes(storage.join(folder, name)) for name in sizes}
    for name in set(storage.listdir(folder)) - set(sizes):
        found |= content(storage.join(folder, name), f"{inner}{name}/")
    return found


def stopped_at(point: int, folder: str, act: Act, takeover: Callable[[str], None], seconds: float = 0.0) -> Outcome:
    """Let one process act, stop it before its call number `point`, let this one take over, and let it go on.

    Args:
        takeover: what the new owner does.
        seconds: for which it is stopped at least.
    """
    ours, its = FORKSERVER.Pipe()
    world = World(configured(), {**os.environ}, {name: getattr(locks, name) for name in PACE})
    process = FORKSERVER.Process(target=_own, args=(point, folder, act, its, world), daemon=True)
    process.start()
    stopped, said = ours.recv()
    before: dict[str, bytes] = {}
    if stopped:
        began = time.monotonic()
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        with locks.lock(folder, "the new owner") as hold:
            takeover(folder)
            before = content(folder)
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            os.kill(process.pid or 0, signal.SIGCONT)
            _, said = ours.recv()
            after = content(folder)
            hold.confirm()
    process.join()
    assert read_current(storage.join(folder, locks.LOCK_FILE)) is None
    return Outcome(stopped, said, before, after if stopped else content(folder))


def _own(point: int, folder: str, act: Act, pipe: Connection, world: World) -> None:
    """The first owner, on what seems to be another machine."""
    os.environ.update(world.environment)
    storage.configure(world.options)
    for name, seconds in world.pace.items():
        setattr(locks, name, seconds)
    retries.PAUSES = (0.01,) * 3
    platform.node = lambda: "elsewhere"
    said = ""
    try:
        with locks.lock(folder, "the old owner") as hold, _stopping(point, folder, pipe) as armed, armed():
            hold.told = True  # else its heartbeat interrupts it before it goes on, which proves nothing of the fence
            act(folder, hold)
    except BaseException as error:
        said = type(error).__name__
    pipe.send(("", said))


@contextlib.contextmanager
def _stopping(point: int, folder: str, pipe: Connection) -> Iterator[Any]:
    """Stop this process immediately before a call of the file system, or a request, while it is armed."""
    armed, left = ContextVar("armed", default=False), [point]

    def come(name: str) -> None:
        if armed.get():
            left[0] -= 1
            if left[0] == -1:
                pipe.send((name, ""))
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.05)  # the kernel may stop another thread a moment before this one

    @contextlib.contextmanager
    def configuration() -> Iterator[None]:
        token = armed.set(True)
        try:
            yield
        finally:
            armed.reset(token)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_CALLS and threading.current_thread() is threading.main_thread():
            come(f"{event} {arguments[0]}")

    if storage.is_local(folder):
        sys.addaudithook(heard)
    else:
        events = remote(folder)[0].s3.meta.events
        events.register_first("before-send.s3", lambda event_name, **_: come(event_name.rpartition(".")[2]))
    yield configuration
