"""Thread pools for generators."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def thread_pool(count: int, name: str, **options: Any) -> Iterator[ThreadPoolExecutor]:
    """Open a `ThreadPoolExecutor` for the body of a generator; do not wait for threads if the generator is closed.

    The garbage collector may close an abandoned generator in any thread, even while `threading` holds the lock that
    joining a thread requires. In this case, `with ThreadPoolExecutor(...)` could deadlock.

    Args:
        options: other keyword arguments of `ThreadPoolExecutor`.
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
