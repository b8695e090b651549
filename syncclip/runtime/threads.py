"""Thread pools of generators."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def thread_pool(count: int, name: str, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """Provide threads for the body of a generator, without waiting for them if it is closed before its end.

    The garbage collector closes an abandoned generator at any moment in any thread, even while `threading` holds the
    lock that joining a thread takes: `with ThreadPoolExecutor(...)` could then deadlock.

    Args:
        options: further arguments of `ThreadPoolExecutor`.
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
