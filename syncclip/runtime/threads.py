"""Threads that work for a generator."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def thread_pool(count: int, name: str, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """Threads for the body of a generator; where it is left before its end, nothing waits for them.

    The garbage collector ends a forgotten generator at any moment in any thread, also where `threading` holds the lock
    that waiting for a thread takes: `with ThreadPoolExecutor(...)` would then let the process stand still for good.

    Args:
        options: further ones of `ThreadPoolExecutor`.
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
