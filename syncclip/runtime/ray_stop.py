"""How the driver of a job tells its workers, on whatever machine, to stop: by a key in Ray's own store."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from syncclip.runtime import shutdown
from syncclip.runtime.heartbeat import repeating

FAILED = "-failed"
"""Suffix of the key under which a worker notes why the job fails for good."""

LOOK_SECONDS = 1.0
"""Between two looks of a worker at the key."""


@contextmanager
def telling() -> Iterator[str]:
    """The key of a job: an interrupt waits until its workers have stopped, which `heeding` tells them.

    Raises:
        Interrupted: at the block's end, or where the grace was over before it.
    """
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    key = f"syncclip-stop-{secrets.token_hex(8)}"
    with shutdown.postponed(partial(_internal_kv_put, key, b"stop")):
        yield key
    with suppress(Exception):
        _internal_kv_del(key)
        _internal_kv_del(key + FAILED)


@contextmanager
def heeding(key: str | None) -> Iterator[None]:
    """In a worker: `interruption.requested` is true once the driver has told so; None: of no driver."""
    if key is None:
        yield
        return

    def look() -> None:
        if told(key):
            shutdown.request()

    try:
        with repeating(look, LOOK_SECONDS):
            yield
    finally:
        shutdown.withdraw()  # the process may serve another job


def told(key: str) -> bool:
    """Whether the driver has told its workers to stop."""
    from ray.experimental.internal_kv import _internal_kv_exists

    with suppress(Exception):  # where the head is lost, the worker ends anyway
        return bool(_internal_kv_exists(key))
    return False


def note_failure(key: str, sentence: str) -> None:
    """In a worker: note why the job fails for good, for the workers that Ray starts in its place."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key + FAILED, sentence.encode())


def noted_failure(key: str) -> str | None:
    """In a worker: why the job failed for good; None where no worker has noted a failure."""
    from ray.experimental.internal_kv import _internal_kv_get

    found = _internal_kv_get(key + FAILED)
    return None if found is None else found.decode()


def heed_sigterm() -> None:
    """In a worker's main thread: SIGTERM, of which only this machine may know, requests a stop and ends it later."""

    def receive(*_: object) -> None:
        shutdown.request()
        end = threading.Timer(shutdown.GRACE, signal.raise_signal, [signal.SIGKILL])
        end.daemon = True
        end.start()

    signal.signal(signal.SIGTERM, receive)
