"""Two owners of one folder: the first is stopped at a point of what it does, as long as the second takes over."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from syncclip import storage
from syncclip.storage import leases
from syncclip.storage.places import remote
from syncclip.storage.swaps import peek

FILE_CALLS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "shutil.rmtree"})
"""Audit events of Python that precede each call of the file system."""

Act = Callable[[str, leases.Hold], None]


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
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _own(point, folder, act, writer)
    os.close(writer)
    status = os.waitpid(child, os.WUNTRACED)[1]
    before: dict[str, bytes] = {}
    if stopped := os.WIFSTOPPED(status):
        began = time.monotonic()
        with leases.lease(folder, "the new owner") as hold:
            takeover(folder)
            before = content(folder)
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            os.kill(child, signal.SIGCONT)
            os.waitpid(child, 0)
            after = content(folder)
            hold.confirm()
    with open(reader) as pipe:
        call, _, said = pipe.read().partition("\n")
    assert peek(storage.join(folder, leases.LEASE)) is None
    return Outcome(call if stopped else "", said, before, after if stopped else content(folder))


def _own(point: int, folder: str, act: Act, writer: int) -> None:
    """The first owner, on what seems to be another machine."""
    said = ""
    try:
        platform.node = lambda: "elsewhere"  # type: ignore[assignment]
        with leases.lease(folder, "the old owner") as hold, _stopping(point, folder, writer) as armed, armed():
            act(folder, hold)
    except BaseException as error:
        said = type(error).__name__
    os.write(writer, f"\n{said}".encode())
    os._exit(0)


@contextlib.contextmanager
def _stopping(point: int, folder: str, writer: int) -> Iterator[Any]:
    """Stop this process immediately before a call of the file system, or a request, while it is armed."""
    armed, left = ContextVar("armed", default=False), [point]

    def come(name: str) -> None:
        if armed.get():
            left[0] -= 1
            if left[0] == -1:
                os.write(writer, name.encode())
                os.kill(os.getpid(), signal.SIGSTOP)

    @contextlib.contextmanager
    def arm() -> Iterator[None]:
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
    yield arm
