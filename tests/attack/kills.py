"""Kill jobs with SIGKILL at selected events: opening a file for writing, writing half of it, renaming, removal, a step.

A job runs in forked processes, one per rank, which start without imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing as mp
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from syncclip.synthesis import shard

Job = Callable[[Path, int], None]
"""Work of a rank in a folder, which resumes after a kill."""

EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "attack.event"})
PATIENCE = 60
"""Timeout in seconds for a rank to detect that another one was killed."""


class KilledError(AssertionError):
    """A job ended in an unexpected way."""


def count_events(job: Job, folder: Path, ranks: int = 1) -> list[int]:
    """Run a job without a kill; returns the number of events of each rank."""
    counts = [mp.RawValue(ctypes.c_long, 0) for _ in range(ranks)]
    statuses = _run(job, folder, counts, {})
    if any(statuses):
        raise KilledError(f"the job ended with {statuses}: {_log(folder)}")
    return [count.value for count in counts]


def kill(job: Job, folder: Path, event: int, rank: int = 0, ranks: int = 1) -> None:
    """Run a job and kill a rank at its nth event; the others end as a result, or are killed later."""
    counts = [mp.RawValue(ctypes.c_long, 0) for _ in range(ranks)]
    statuses = _run(job, folder, counts, {rank: event})
    if statuses[rank] != -signal.SIGKILL:
        raise KilledError(f"the job to be killed at event {event} ended with {statuses}: {_log(folder)}")


def twentieths(count: int) -> list[int]:
    """The events at every 5 % of a job with `count` events."""
    return sorted({1 + count * part // 20 for part in range(20)})


def event() -> None:
    """Raise an event that is not a system call."""
    sys.audit("attack.event")


def begin_without_threads() -> None:
    """Replace thread pools, as a forked process does not inherit the threads of its parent."""
    torch.set_num_threads(1)
    torch.set_num_threads = lambda _: None
    shard._generator_thread = ThreadPoolExecutor(1)


def _run(job: Job, folder: Path, counts: list[Any], last: dict[int, int]) -> list[int]:
    """Exit status of each rank, as `Popen.returncode`."""
    sys.stdout.flush()
    pids = []
    for rank, count in enumerate(counts):
        if not (pid := os.fork()):
            _run_rank(job, folder, rank, count, last.get(rank, 0))
        pids.append(pid)
    statuses = {}
    with _alarm(pids):
        for pid in pids:
            statuses[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [statuses[pid] for pid in pids]


@contextlib.contextmanager
def _alarm(pids: list[int]) -> Iterator[None]:
    """Kill ranks that still wait for the killed one."""

    def kill(*_: Any) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, kill)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _run_rank(job: Job, folder: Path, rank: int, count: Any, last: int) -> NoReturn:
    """Run a rank in a forked process and exit."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    prefix = str(folder)

    def observe(name: str, arguments: tuple[Any, ...]) -> None:
        writes = name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        inside = name == "attack.event" or str(arguments[0] if arguments else "").startswith(prefix)
        if inside and (writes or name in EVENTS):
            count.value += 1
            if count.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    copy = shutil.copyfileobj

    def copy_in_halves(source: IO[bytes], target: IO[bytes], length: int = 0) -> None:
        data = source.read()
        target.write(data[: len(data) // 2])
        target.flush()
        event()
        target.write(data[len(data) // 2 :])

    code = 1
    try:
        with open(f"{folder}-{rank}.log", "w") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
            begin_without_threads()
            sys.addaudithook(observe)
            shutil.copyfileobj = copy_in_halves  # type: ignore[assignment]
            try:
                job(folder, rank)
                code = 0
            except BaseException:
                traceback.print_exc()
    finally:
        shutil.copyfileobj = copy
        os._exit(code)


def _log(folder: Path) -> str:
    return "".join(path.read_text()[-1500:] for path in sorted(folder.parent.glob(f"{folder.name}-*.log")))
