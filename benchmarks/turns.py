"""Sides that alternate every fraction of a second, each in a process of its own that is stopped in between.

A shared machine is fast one minute and slow the next; so all sides run in the same minute. And a process can be fast or
slow for all its life, depending on where its memory is; so all are restarted several times.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import psutil

Run = Callable[[], Iterator[int]]
"""What a side does, piece by piece: how many things it has done since the last piece. It must not end."""

_SPAWN = multiprocessing.get_context("spawn")
_RESUMING = 0.05  # seconds of a turn before it counts


class Side:
    """A process and its children."""

    def __init__(self, run: Run) -> None:
        """
        Args:
            run: Must pickle.
        """
        self._done = _SPAWN.Value("q", 0)
        self._process = _SPAWN.Process(target=_count, args=(run, self._done))
        self._process.start()

    def ready(self, done: int) -> None:
        """Wait until it has done that much, and stop it.

        Raises:
            RuntimeError: it ended.
        """
        while self._done.value < done:
            if not self._process.is_alive():
                raise RuntimeError("a side ended before its first turn; its own error stands above")
            time.sleep(0.05)
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> float:
        """Let it run for a while, and stop it again: what it did per second."""
        self._signal(signal.SIGCONT)
        time.sleep(_RESUMING)
        before, begun = self._done.value, time.perf_counter()
        time.sleep(seconds)
        rate = (self._done.value - before) / (time.perf_counter() - begun)
        self._signal(signal.SIGSTOP)
        return float(rate)

    def end(self) -> None:
        """Kill it and its children."""
        self._signal(signal.SIGKILL)
        self._process.join()

    def _signal(self, number: signal.Signals) -> None:
        try:
            first = psutil.Process(self._process.pid)
            for process in [first, *first.children(recursive=True)]:
                process.send_signal(number)
        except psutil.NoSuchProcess:
            pass


class Compared(NamedTuple):
    """Items per second of one side: the mean of every start."""

    starts: list[float]

    @property
    def mean(self) -> float:
        """Over all starts."""
        return statistics.mean(self.starts)


def compare(
    runs: Mapping[str, Run], *, starts: int, turns: int, seconds: float, warm: int, tell: Callable[[str], None]
) -> dict[str, Compared]:
    """Every side's rates.

    Args:
        runs: Sides by name; they must pickle.
        starts: How often all of them are restarted.
        turns: How many each then has.
        seconds: Of one turn.
        warm: What each does before the first one counts.
        tell: Receives a line after every start.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for start in range(starts):
        sides = {}
        try:
            for name, run in runs.items():  # one after the other: those that wait stand still
                sides[name] = Side(run)
                sides[name].ready(warm)
            rates: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(turns):
                for name in list(runs) if turn % 2 else reversed(list(runs)):
                    rates[name].append(sides[name].turn(seconds))
        finally:
            for side in sides.values():
                side.end()
        for name in runs:
            found[name].append(statistics.mean(rates[name]))
        tell(f"start {start + 1}: " + ", ".join(f"{name} {found[name][-1]:,.0f}" for name in runs))
    return {name: Compared(rates) for name, rates in found.items()}


def _count(run: Run, done: Any) -> None:
    os.setsid()
    for more in run():
        with done.get_lock():
            done.value += more
