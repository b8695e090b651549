"""Kills with -9 at chosen moments of a life, which is counted in deeds and not in seconds: each file that is opened for
writing, each half of one that is written, each rename, each removal and each step is a moment.

A life is lived by forked processes, one for each rank, so that a kill costs what is repeated after it and no start.
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

Life = Callable[[Path, int], None]
"""What a rank does in a folder, from wherever those before it came."""

DEEDS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "attack.moment"})
PATIENCE = 60
"""Seconds that a rank whose fellow was killed may take to notice it."""


class KilledError(AssertionError):
    """A life that ended otherwise than it should."""


def moments(live: Life, folder: Path, ranks: int = 1) -> list[int]:
    """Live undisturbed; each rank's number of moments."""
    counts = [mp.RawValue(ctypes.c_long, 0) for _ in range(ranks)]
    ends = _lived(live, folder, counts, {})
    if any(ends):
        raise KilledError(f"an undisturbed life ended with {ends}: {_log(folder)}")
    return [count.value for count in counts]


def die(live: Life, folder: Path, moment: int, rank: int = 0, ranks: int = 1) -> None:
    """Live until a rank's so-many-th moment, at which it is killed; the others end with it, or are killed later."""
    counts = [mp.RawValue(ctypes.c_long, 0) for _ in range(ranks)]
    ends = _lived(live, folder, counts, {rank: moment})
    if ends[rank] != -signal.SIGKILL:
        raise KilledError(f"a life whose moment {moment} was its last ended with {ends}: {_log(folder)}")


def twentieths(count: int) -> list[int]:
    """The moments at every 5 % of a life of `count` of them."""
    return sorted({1 + count * part // 20 for part in range(20)})


def moment() -> None:
    """A deed that the system doesn't see."""
    sys.audit("attack.moment")


def begin_without_threads() -> None:
    """A forked process has none of its parent's threads, and would wait for them."""
    torch.set_num_threads(1)
    torch.set_num_threads = lambda _: None
    shard._generator_thread = ThreadPoolExecutor(1)


def _lived(live: Life, folder: Path, counts: list[Any], last: dict[int, int]) -> list[int]:
    """How each rank ended, as of `Popen.returncode`."""
    sys.stdout.flush()
    pids = []
    for rank, count in enumerate(counts):
        if not (pid := os.fork()):
            _live(live, folder, rank, count, last.get(rank, 0))
        pids.append(pid)
    ends = {}
    with _alarm(pids):
        for pid in pids:
            ends[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [ends[pid] for pid in pids]


@contextlib.contextmanager
def _alarm(pids: list[int]) -> Iterator[None]:
    """Kill what still waits for a rank that was killed."""

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


def _live(live: Life, folder: Path, rank: int, count: Any, last: int) -> NoReturn:
    """The rest of a forked process."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    below = str(folder)

    def observe(event: str, given: tuple[Any, ...]) -> None:
        written = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)
        here = event == "attack.moment" or str(given[0] if given else "").startswith(below)
        if here and (written or event in DEEDS):
            count.value += 1
            if count.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    copy = shutil.copyfileobj

    def copy_in_halves(source: IO[bytes], target: IO[bytes], length: int = 0) -> None:
        data = source.read()
        target.write(data[: len(data) // 2])
        target.flush()
        moment()
        target.write(data[len(data) // 2 :])

    code = 1
    try:
        with open(f"{folder}-{rank}.log", "w") as log, contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
            begin_without_threads()
            sys.addaudithook(observe)
            shutil.copyfileobj = copy_in_halves  # type: ignore[assignment]
            try:
                live(folder, rank)
                code = 0
            except BaseException:
                traceback.print_exc()
    finally:
        shutil.copyfileobj = copy
        os._exit(code)


def _log(folder: Path) -> str:
    return "".join(path.read_text()[-1500:] for path in sorted(folder.parent.glob(f"{folder.name}-*.log")))
