"""Thread pools for generators."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def thread_pool(count: int, name: str, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """Open a `ThreadPoolExecutor` inside a generator; closing the generator does not wait for the threads.

    Garbage collection of an abandoned generator may run in any thread, even while `threading` holds the lock that
    joining a thread requires; a plain `with ThreadPoolExecutor(...)` could then deadlock.

    Args:
        options: additional keyword arguments for `ThreadPoolExecutor`.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name, **options)
    try:
        yield pool
    except GeneratorExit:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
