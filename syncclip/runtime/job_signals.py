"""Signals between a job's driver and its workers on Ray: a request to stop, and a permanent failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from syncclip.runtime import shutdown
from syncclip.runtime.heartbeat import repeating

STOP_INTERVAL = 1.0
"""Interval, in seconds, at which a worker checks for a stop request."""

RESPONSE_SECONDS = 10.0
"""Timeout, in seconds, for a response of the actor; its node may be lost."""


class JobSignals:
    """State of a job that its driver and workers share, kept in an actor that lives as long as the driver."""

    def __init__(self) -> None:
        self._stopped = False
        self._failure: str | None = None

    def stop(self) -> None:
        """Request the workers to stop."""
        self._stopped = True

    def is_stopped(self) -> bool:
        """Return whether the workers should stop."""
        return self._stopped

    def fail(self, message: str) -> None:
        """Record a permanent failure of the job, for workers that Ray starts as replacements."""
        self._failure = message

    def failure(self) -> str | None:
        """Return the error message of the permanent failure, or None."""
        return self._failure


@contextmanager
def job_signals() -> Iterator[Any]:
    """Postpone an interrupt until a job's workers have stopped; yield the actor's handle for `observing_stop`.

    Raises:
        Interrupted: a signal was received; raised at the end of the `with` block, or inside it after the grace period.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    signals: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(JobSignals)
    handle = signals.remote()
    with shutdown.postponed(lambda: handle.stop.remote()):
        yield handle


@contextmanager
def observing_stop(signals: Any | None) -> Iterator[None]:
    """Make `shutdown.requested` return True in a worker once the driver stops the job.

    Args:
        signals: handle from `job_signals`; None if there is no driver.
    """
    if signals is None:
        yield
        return

    def check() -> None:
        if stop_requested(signals):
            shutdown.request()

    try:
        with repeating(check, STOP_INTERVAL):
            yield
    finally:
        shutdown.withdraw()  # the process may serve another job


def stop_requested(signals: Any) -> bool:
    """Return whether the driver has stopped the job; False if the head node is lost, since the worker then exits."""
    import ray

    with suppress(Exception):
        return bool(ray.get(signals.is_stopped.remote(), timeout=RESPONSE_SECONDS))
    return False


def record_failure(signals: Any, message: str) -> None:
    """Record a permanent failure of the job; call in a worker."""
    import ray

    ray.get(signals.fail.remote(message), timeout=RESPONSE_SECONDS)


def recorded_failure(signals: Any) -> str | None:
    """Return the error message of the job's permanent failure, or None; call in a worker."""
    import ray

    message: str | None = ray.get(signals.failure.remote(), timeout=RESPONSE_SECONDS)
    return message
