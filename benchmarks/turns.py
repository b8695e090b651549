"""Compare programs that run alternately for fractions of a second, each in a process that is suspended in between.

A shared machine may be fast in one minute and slow in the next, so all programs run in the same minute. A process may
be fast or slow for its whole lifetime, depending on its memory layout, so all programs are restarted several times.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil

Run = Callable[[], Iterator[int]]
"""Endless workload; yields the number of items processed since the last yield. It must be picklable."""

_SPAWN = multiprocessing.get_context("spawn")
_RESUMING = 0.05  # seconds after resuming that are not measured


class Side:
    """A process and its children."""

    def __init__(self, run: Run) -> None:
        self._done = _SPAWN.Value("q", 0)
        self._process = _SPAWN.Process(target=_count, args=(run, self._done))
        self._process.start()

    def warm_up(self, items: int) -> None:
        """Wait until this number of items has been processed, then suspend the process.

        Raises:
            RuntimeError: the process ended.
        """
        while self._done.value < items:
            if not self._process.is_alive():
                raise RuntimeError("a process ended before its first measurement; see its error above")
            time.sleep(0.05)
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> float:
        """Resume the process for some seconds, and return the items per second."""
        self._signal(signal.SIGCONT)
        time.sleep(_RESUMING)
        before, start = self._done.value, time.perf_counter()
        time.sleep(seconds)
        rate = (self._done.value - before) / (time.perf_counter() - start)
        self._signal(signal.SIGSTOP)
        return float(rate)

    def end(self) -> None:
        """Kill the process and its children."""
        self._signal(signal.SIGKILL)
        self._process.join()

    def _signal(self, number: signal.Signals) -> None:
        try:
            first = psutil.Process(self._process.pid)
            for process in [first, *first.children(recursive=True)]:
                process.send_signal(number)
        except psutil.NoSuchProcess:
            pass


def compare(runs: Mapping[str, Run], *, starts: int, turns: int, seconds: float, warm: int) -> dict[str, list[float]]:
    """Return the items per second of each program, with one value per start.

    Args:
        runs: workloads by name.
        starts: number of times that all programs are started.
        turns: number of measurements of each program per start.
        seconds: duration of a measurement in seconds.
        warm: number of items that each program processes before its first measurement.
    """
    means: dict[str, list[float]] = {name: [] for name in runs}
    for start in range(starts):
        sides = {}
        try:
            for name, run in runs.items():
                sides[name] = Side(run)
                sides[name].warm_up(warm)
            rates: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(turns):
                for name in list(runs) if turn % 2 else reversed(list(runs)):
                    rates[name].append(sides[name].turn(seconds))
        finally:
            for side in sides.values():
                side.end()
        for name in runs:
            means[name].append(statistics.mean(rates[name]))
        line = ", ".join(f"{name} {means[name][-1]:,.0f}" for name in runs)
        print(f"start {start + 1}: {line}", file=sys.stderr, flush=True)
    return means


def _count(run: Run, done: Any) -> None:
    os.setsid()
    for items in run():
        with done.get_lock():
            done.value += items
