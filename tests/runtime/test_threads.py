"""A generator that is forgotten ends without a wait for its threads, wherever the garbage collector meets it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip.runtime.threads import thread_pool

PACKAGE = Path(__file__).parents[2] / "syncclip"

FORGOTTEN = """
import gc, threading, time
from syncclip.runtime.threads import thread_pool

def squares():
    with thread_pool(2, "test") as pool:
        for one in [pool.submit(pow, number, 2) for number in range(4)]:
            yield one.result()

forgotten = squares()
assert next(forgotten) == 0
forgotten, around = None, [forgotten]
around.append(around)  # only the garbage collector ends it
del around
with threading._shutdown_locks_lock:  # as while a thread starts
    assert gc.collect()
time.sleep(0.2)
assert not [one for one in threading.enumerate() if one.name.startswith("test")]
"""


def test_the_garbage_collector_may_end_it_while_a_thread_starts() -> None:
    subprocess.run([sys.executable, "-c", FORGOTTEN], check=True, timeout=300)


def test_all_has_been_done_where_it_is_used_to_its_end_or_fails() -> None:
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


def test_no_generator_waits_for_threads_of_its_own() -> None:
    found = []
    for file in PACKAGE.rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or file.name == "threads.py":
                continue
            inside = list(ast.walk(function))
            makes = any(isinstance(node, ast.Name) and node.id == "ThreadPoolExecutor" for node in inside)
            if makes and any(isinstance(node, ast.Yield | ast.YieldFrom) for node in inside):
                found += [f"{file.relative_to(PACKAGE)}: {function.name}"]
    assert found == ["stream/loader.py: _in_order"], "of which the pool is another's"
