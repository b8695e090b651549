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
from syncclip.storage import conditional_writes, locks, retries
from syncclip.storage.conditional_writes import read_current
from syncclip.storage.urls import configured, remote

FILE_CALLS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "shutil.rmtree"})
"""Audit events of Python that precede each call of the file system."""

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tests.storage.late"])

Act = Callable[[str, locks.Hold], None]


class Clock:
    """In place of the module `time`: a clock of both owners that only their pauses advance.

    Timeouts thus never depend on how busy the machine is.
    """

    CLOCK_BOOTTIME = CLOCK_MONOTONIC = time.CLOCK_MONOTONIC

    def __init__(self) -> None:
        self._seconds = FORKSERVER.Value("d", 0.0)

    def clock_gettime(self, _: int) -> float:
        with self._seconds:
            return self._seconds.value

    def sleep(self, seconds: float) -> None:
        with self._seconds:
            self._seconds.value += seconds

    def install(self) -> None:
        """Make the locks of this process use this clock."""
        locks.time = conditional_writes.time = self  # type: ignore[assignment]


@dataclass(frozen=True)
class Environment:
    """What the first owner inherits from the test's process."""

    options: dict[str, Any]
    variables: dict[str, str]
    clock: Clock | None


@dataclass(frozen=True)
class Outcome:
    """How the first owner ended, and the folder's content."""

    stopped: str
    """The call before which it was stopped; "": it ended without having been stopped."""
    error: str
    """The type of the error that it ended with."""
    at_takeover: dict[str, bytes]
    at_end: dict[str, bytes]


def content(folder: str, inner: str = "") -> dict[str, bytes]:
    """Path -> bytes of all files in a folder."""
    sizes = storage.sizes(folder)
    files = {inner + name: storage.read_bytes(storage.join(folder, name)) for name in sizes}
    for name in set(storage.listdir(folder)) - set(sizes):
        files |= content(storage.join(folder, name), f"{inner}{name}/")
    return files


def stopped_at(
    point: int,
    folder: str,
    act: Act,
    takeover: Callable[[str], None],
    *,
    clock: Clock | None = None,
    seconds: float = 0.0,
) -> Outcome:
    """Run `act` in a process, stop it before its call number `point`, take over its lock here, and continue it.

    Args:
        takeover: writes of the new owner.
        clock: clock of both owners, installed in this process; None: real time.
        seconds: minimum duration of the stop.
    """
    ours, theirs = FORKSERVER.Pipe()
    environment = Environment(configured(), {**os.environ}, clock)
    process = FORKSERVER.Process(target=_own, args=(point, folder, act, theirs, environment), daemon=True)
    process.start()
    stopped, error = ours.recv()
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
            _, error = ours.recv()
            after = content(folder)
            hold.confirm()
    process.join()
    assert read_current(storage.join(folder, locks.LOCK_FILE)) is None
    return Outcome(stopped, error, before, after if stopped else content(folder))


def _own(point: int, folder: str, act: Act, pipe: Connection, environment: Environment) -> None:
    """The first owner, with the host name of another machine."""
    os.environ.update(environment.variables)
    storage.configure(environment.options)
    if environment.clock is not None:
        environment.clock.install()
    retries.PAUSES = (0.01,) * 3
    platform.node = lambda: "elsewhere"
    error_type = ""
    try:
        with locks.lock(folder, "the old owner") as hold, _stopping(point, folder, pipe) as armed, armed():
            hold.reported = (
                True  # else its heartbeat interrupts it before it continues, which shows nothing of the fence
            )
            act(folder, hold)
    except BaseException as error:
        error_type = type(error).__name__
    pipe.send(("", error_type))


@contextlib.contextmanager
def _stopping(point: int, folder: str, pipe: Connection) -> Iterator[Any]:
    """Stop this process immediately before a call of the file system, or a request, while it is armed."""
    armed, remaining = ContextVar("armed", default=False), [point]

    def count(name: str) -> None:
        if armed.get():
            remaining[0] -= 1
            if remaining[0] == -1:
                pipe.send((name, ""))
                os.kill(os.getpid(), signal.SIGSTOP)
                time.sleep(0.05)  # the kernel may stop another thread a moment before this one

    @contextlib.contextmanager
    def arm() -> Iterator[None]:
        token = armed.set(True)
        try:
            yield
        finally:
            armed.reset(token)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_CALLS and threading.current_thread() is threading.main_thread():
            count(f"{event} {arguments[0]}")

    if storage.is_local(folder):
        sys.addaudithook(audit)
    else:
        events = remote(folder)[0].s3.meta.events
        events.register_first("before-send.s3", lambda event_name, **_: count(event_name.rpartition(".")[2]))
    yield arm
