"""A generator that the garbage collector closes does not wait for its threads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip.runtime.threads import thread_pool

PACKAGE = Path(__file__).parents[2] / "syncclip"

ABANDONED = """
import gc, threading, time
from syncclip.runtime.threads import thread_pool

def squares():
    with thread_pool(2, "test") as pool:
        for future in [pool.submit(pow, number, 2) for number in range(4)]:
            yield future.result()

generator = squares()
assert next(generator) == 0
generator, cycle = None, [generator]
cycle.append(cycle)  # only the garbage collector closes it
del cycle
with threading._shutdown_locks_lock:  # as while a thread starts
    assert gc.collect()
time.sleep(0.2)
assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]
"""


def test_the_garbage_collector_may_close_a_generator_while_a_thread_starts() -> None:
    subprocess.run([sys.executable, "-c", ABANDONED], check=True, timeout=300)


def test_submitted_work_is_finished_at_the_end_or_at_an_error() -> None:
    done: list[int] = []
    with thread_pool(2, "test") as pool:
        for number in range(9):
            pool.submit(done.append, number)
    assert sorted(done) == list(range(9))
    with pytest.raises(ZeroDivisionError), thread_pool(1, "test") as pool:
        begun = pool.submit(done.clear)
        begun.result()
        1 / 0  # noqa: B018
    assert not done


def test_no_other_generator_creates_a_thread_pool() -> None:
    generators = []
    for file in PACKAGE.rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or file.name == "threads.py":
                continue
            inside = list(ast.walk(function))
            makes = any(isinstance(node, ast.Name) and node.id == "ThreadPoolExecutor" for node in inside)
            if makes and any(isinstance(node, ast.Yield | ast.YieldFrom) for node in inside):
                generators += [f"{file.relative_to(PACKAGE)}: {function.name}"]
    assert generators == ["stream/loader.py: _in_order"], "the pool is an argument there"
