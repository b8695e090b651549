"""Watching that the Ray in use is alive: where a part of it dies, the driver would wait for it for ever, or abort."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from syncclip.core.settings import UserError
from syncclip.core.text import printable
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.progress import say
from syncclip.runtime.shutdown import at_once, end_process, interrupt_main

if TYPE_CHECKING:
    import psutil

LOOK_SECONDS = 2.0
"""Between two looks at a cluster, and the most that one of them waits."""

DAEMONS = ("raylet", "gcs_server")
DAEMONS_SECONDS = 0.1
"""Between two looks at this machine's."""

PATIENCE = 30.0
"""Seconds for which a cluster may not answer."""

STUCK_SECONDS = 5.0
"""In which the main thread must have noticed; some of Ray's calls wait for a lost head until they abort the process."""


WITNESS = """read -r words || words=$1; test -z "$words" || printf '%s\\n' "$words" >&2"""
"""The shell script of a witness: it says the line that it is sent, or its argument when no line came."""

EXIT_STATUS = 1
"""Of a command whose Ray was lost, as Ray itself has it: what the user asked for was no mistake."""


class LostRayError(UserError):
    """A part of Ray was lost, which the user has been told already."""


class Witness:
    """A process that says what this one no longer can.

    A call of Ray that is made within seconds of its raylet's death ends the process at once, without a word, an
    exception or any handler (`QuickExit` in its C++); a lack of memory or a defect of native code does as well.

    Args:
        last_words: said where the process ends before `close` or `say` is called.
    """

    def __init__(self, last_words: str) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", WITNESS, "sh", printable(last_words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # what a terminal sends ends it no earlier than its parent
        )
        self._lock = threading.Lock()

    def say(self, words: str) -> None:
        """Say this instead, now; only the first call of `say` or `close` does anything."""
        with self._lock:
            if self._process.returncode is None:
                self._process.communicate(f"{printable(words)}\n".encode())
                if words and self._process.returncode != 0:  # killed itself
                    say(words)

    def close(self) -> None:
        """Say nothing."""
        self.say("")


@contextmanager
def witnessed(where: str) -> Iterator[Witness]:
    """A witness of what happens while the block uses the Ray at `where`. To be entered before stderr is redirected."""
    witness = Witness(
        f"syncclip: the command was killed, or ended when {where} did (out of memory?); "
        "the same command goes on from what is committed"
    )
    with at_once(witness.close):
        try:
            yield witness
        finally:
            witness.close()


def place_of(address: str) -> str:
    """A Ray's name in a sentence, by the address of its cluster, or "local"."""
    return "this machine's Ray" if address == "local" else f"the Ray cluster at {address}"


@contextmanager
def watched(address: str, witness: Witness, daemons: Sequence[psutil.Process] = ()) -> Iterator[None]:
    """Watch the initialised Ray while the block runs in the main thread.

    Args:
        address: that of a cluster, or "local".
        witness: tells the user, so that it is told once whoever notices first, this process or its end.
        daemons: of a local Ray.

    Raises:
        LostRayError: a part of Ray was lost; the sentence says which Ray, and how to go on.
    """
    lost = False
    sentence = (
        f"{place_of(address)} {{}} (killed, stopped, or out of memory); the same command goes on from what is committed"
    )
    gone = sentence.format("has stopped answering")
    stuck = threading.Timer(STUCK_SECONDS, end_process, [None, EXIT_STATUS])
    stuck.daemon = True
    parts = [process for process in daemons if process.name() in DAEMONS]
    places, misses = _places(address), 0

    def look() -> None:
        nonlocal lost, misses
        misses = 0 if all(map(answers, places)) else misses + 1
        if not lost and (misses * LOOK_SECONDS >= PATIENCE or not all(map(lives, parts))):
            lost = True
            stuck.start()
            witness.say(f"syncclip: {gone}")
            interrupt_main(f"{place_of(address)} was lost")

    try:
        with repeating(look, DAEMONS_SECONDS if parts else LOOK_SECONDS):
            yield
    except BaseException as error:
        if lost:
            raise LostRayError(gone) from error
        if not _is_of_ray(error):
            raise
        part = sentence.format(f"lost a process or a machine ({type(error).__name__})")
        witness.say(f"syncclip: {part}")
        raise LostRayError(part) from error
    finally:
        stuck.cancel()


def lives(process: psutil.Process) -> bool:
    """Whether it runs; in a container whose first process doesn't collect the dead, they stay as zombies."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(place: tuple[str, int]) -> bool:
    """Whether something listens at a host's port."""
    try:
        with socket.create_connection(place, timeout=LOOK_SECONDS):
            return True
    except OSError:
        return False


def _places(address: str) -> list[tuple[str, int]]:
    """Where a cluster's head and this machine's part of it listen; none of a local Ray, whose processes are known."""
    import ray

    if address == "local":
        return []
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
