"""Watching that the Ray in use is alive: where a part of it dies, the driver would wait for it for ever, or abort."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from syncclip.core.heartbeat import repeating
from syncclip.core.interruption import end_process, interrupt_main
from syncclip.core.settings import UserError

LOOK_SECONDS = 2.0
"""Between two looks, and the most that one of them waits."""

PATIENCE = 30.0
"""Seconds for which a cluster may not answer; on this machine only one look in vain is forgiven."""

STUCK_SECONDS = 5.0
"""In which the main thread must have noticed; some of Ray's calls wait for a lost head until they abort the process."""

GONE = "has stopped answering"


@contextmanager
def watched(address: str) -> Iterator[None]:
    """Watch the initialised Ray while the block runs in the main thread.

    Args:
        address: that of a cluster, or "local".

    Raises:
        UserError: a part of Ray was lost; the sentence says which Ray, and how to go on.
    """
    lost = False
    where = "this machine's Ray" if address == "local" else f"the Ray cluster at {address}"
    sentence = f"{where} {{}} (killed, stopped, or out of memory); the same command goes on from what is committed"
    stuck = threading.Timer(STUCK_SECONDS, end_process, [f"syncclip: {sentence.format(GONE)}", 2])
    stuck.daemon = True
    places, misses = _places(address), 0

    def look() -> None:
        nonlocal lost, misses
        misses = 0 if all(map(answers, places)) else misses + 1
        if misses > 1 and not lost and (address == "local" or misses * LOOK_SECONDS >= PATIENCE):
            lost = True
            interrupt_main(f"{where} was lost")
            stuck.start()

    try:
        with repeating(look, LOOK_SECONDS):
            yield
    except BaseException as error:
        if not lost and not _is_of_ray(error):
            raise
        why = GONE if lost else f"lost a process or a machine ({type(error).__name__})"
        raise UserError(sentence.format(why)) from error
    finally:
        stuck.cancel()


def answers(place: tuple[str, int]) -> bool:
    """Whether something listens at a host's port."""
    try:
        with socket.create_connection(place, timeout=LOOK_SECONDS):
            return True
    except OSError:
        return False


def _places(address: str) -> list[tuple[str, int]]:
    """Where the cluster's head and this machine's part of it listen."""
    import ray

    if address.startswith("ray://"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        return [(host, int(port))]
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = [
        (node["NodeManagerAddress"], node["NodeManagerPort"])
        for node in ray.nodes()
        if node["NodeID"] == context.get_node_id()
    ]
    return [(host, int(port)), *here]


def _is_of_ray(error: BaseException) -> bool:
    """Whether it reports the end of a part of Ray, and not what a task raised or is refused."""
    from ray import exceptions

    parts = (
        *(exceptions.RayActorError, exceptions.RaySystemError, exceptions.ObjectLostError, exceptions.RpcError),
        *(exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.WorkerCrashedError),
        *(exceptions.ObjectStoreFullError, exceptions.OutOfDiskError, exceptions.OutOfMemoryError),
    )
    return isinstance(cause_of(error), parts)


def cause_of(error: BaseException) -> BaseException:
    """What code of ours raised on a worker, inside the wrappers of Ray; the error itself where there are none."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "cause", None) or getattr(error, "health_check_failure", None)
        if inner is None and type(error).__module__.startswith("ray."):
            inner = error.__cause__
    return error


@contextmanager
def native_words_dropped() -> Iterator[None]:
    """Drop what Ray's daemons say, and what its C++ writes to this process's stderr; Python's words are shown."""
    import ray._private.worker as ray_worker

    ray_worker._worker_logs_enabled = False  # with which a thread prints what the raylet says; no option turns it off
    sys.stderr.flush()
    shown, python = os.dup(2), sys.stderr
    with suppress(OSError, ValueError, AttributeError):  # no file, as in a notebook
        if python.fileno() == 2:
            sys.stderr = os.fdopen(shown, "w", buffering=1, encoding=python.encoding, errors=python.errors)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        sys.stderr = python
        ray_worker._worker_logs_enabled = True
