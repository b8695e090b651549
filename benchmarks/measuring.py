"""Measure functions and commands in separate processes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil

ROOT = Path(__file__).parents[1]

Commands = Sequence[Sequence[str]]


class Cost(NamedTuple):
    """Cost of commands and all their child processes.

    Attributes:
        cpu, wall: CPU time and wall-clock time in seconds.
        memory: peak resident memory of the largest process, in MB.
    """

    cpu: float
    wall: float
    memory: float


def in_new_process(work: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a new process and return its result."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


def cost(commands: Commands) -> Cost:
    """Run commands in parallel, and return their total cost."""
    start, seconds, largest = time.perf_counter(), dict[tuple[int, float], float](), 0
    running = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for command in commands]
    while any(parent.poll() is None for parent in running):
        for parent in running:
            with contextlib.suppress(psutil.Error):
                first = psutil.Process(parent.pid)
                for process in [first, *first.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        times = process.cpu_times()
                        seconds[process.pid, process.create_time()] = times.user + times.system
                        largest = max(largest, process.memory_info().rss)
        time.sleep(0.2)
    assert all(parent.returncode == 0 for parent in running)
    return Cost(sum(seconds.values()), time.perf_counter() - start, largest / 1e6)


def compare(
    sides: Mapping[str, Callable[[int], Commands]], sizes: Sequence[int], repetitions: int
) -> dict[str, list[Cost]]:
    """Return the minimum cost of each program at each size; the programs alternate.

    Args:
        sides: name -> function that returns the commands for a size.
    """
    costs: dict[tuple[str, int], list[Cost]] = {(side, size): [] for side in sides for size in sizes}
    for _ in range(repetitions):
        for size in sizes:
            for side, commands in sides.items():
                costs[side, size].append(cost(commands(size)))
    return {side: [Cost(*map(min, zip(*costs[side, size], strict=True))) for size in sizes] for side in sides}


def marginal(few: int, low: Cost, many: int, high: Cost) -> tuple[Cost, Cost]:
    """Return the cost per item and the startup cost, from the costs of few and of many items."""
    each = Cost(*((above - below) / (many - few) for below, above in zip(low, high, strict=True)))
    return each, Cost(*(below - few * item for below, item in zip(low, each, strict=True)))
