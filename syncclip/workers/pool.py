"""A pool of Ray Data actors with one row per shard, bounded restarts, and errors returned as rows."""

from __future__ import annotations

import inspect
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

from syncclip.core.session import Session, current
from syncclip.runtime import ray_session
from syncclip.runtime.shutdown import postponed
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

MAX_STARTS = 2
"""Starts of a shard per round. A shard that kills its process (mostly out of memory) becomes an error after these."""

CONCURRENT_ROWS = 2
"""Rows per actor at a time: one shard is finished and written while the next is computed."""

MAX_OVERLAP_SHARE = 0.5
"""Share of a shard's time up to which its writing overlaps the next shard. A killed process loses the shard that it
writes and what it has of the next, which should be one shard at most on average."""

MAX_QUEUE = 4
"""Rows sent to an actor of a growing pool at a time, including those in progress; it grows while queues are full."""

RAY_BOUNDS = {"max_restarts": 4, "max_task_retries": 2}
"""Restarts and retries by Ray Data, which are unlimited by default; they apply where `MAX_STARTS` can't act."""

NOT_STARTED = "not started"
"""Error of a row that arrived after the pool was stopped."""


class PoolError(RuntimeError):
    """Actors died more often than Ray may restart them. Committed shards stay."""


class RowWorker(Protocol):
    """A `Worker` as the pool uses it. Errors are returned in the report, never raised."""

    def begin(self, shard: int) -> Any:
        """Compute a shard; called for one shard at a time, and its result is always committed."""

    def commit(self, computation: Any) -> Report:
        """Write a result of `begin`, while the next shard may be computed."""


class ShardRow:
    """The callable of Ray Data, run by `CONCURRENT_ROWS` threads; gives up a shard whose process died too often."""

    def __init__(self, log: Any, worker: Callable[[], RowWorker]) -> None:
        self.log = log
        self.worker = worker()
        self._computing, self._committing = threading.Lock(), threading.Lock()
        self._overlap = False
        """Whether the last shard was written quickly enough to overlap the next."""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        shard = int(row["shard"])
        with ExitStack() as turn:
            turn.enter_context(self._computing)
            starts, done = ray.get(self.log.begin.remote(shard))
            if not starts:
                return Report(shard, error=NOT_STARTED)._asdict()
            deaths = starts - 1
            if done is not None:  # the process died before it returned the report
                return {**done, "deaths": 1}
            if deaths >= MAX_STARTS:
                now = time.time()
                error = f"its process died {deaths} times (out of memory, or killed)"
                return Report(shard, started=now, ended=now, deaths=1, error=error)._asdict()
            if deaths:  # a shard that may kill the process overlaps no other shard
                turn.enter_context(self._committing)
            computation = self.worker.begin(shard)
            if self._overlap and not deaths:
                turn.close()
            with nullcontext() if deaths else self._committing:
                report = self.worker.commit(computation)
            self._overlap = report.write <= MAX_OVERLAP_SHARE * (report.ended - report.started - report.write)
            ended = report._replace(deaths=min(1, deaths))._asdict()
            ray.get(self.log.end.remote(shard, ended))
            return ended


def _in_session(session: Session, worker: Callable[[], RowWorker]) -> RowWorker:
    """Create the worker of an actor, whose process stays in the session."""
    session.enter()
    return worker()


def run_round(
    shards: Sequence[int],
    worker: Callable[[], RowWorker],
    pool: Pool,
    threads: int = 1,
    session: Session | None = None,
) -> Iterator[Report]:
    """Compute shards on the initialised Ray, and yield their reports as they finish.

    Args:
        shards: shard numbers in submission order; an actor may start its two in either order.
        worker: called once in each actor.
        pool: the actors.
        threads: CPUs per actor.
        session: entered by each actor; the current one by default.

    Raises:
        Interrupted: on a signal, after the shards in flight are finished.
        PoolError: actors died more often than `RAY_BOUNDS` allows.
    """
    import ray
    import ray.data

    ray_session.quiet()  # importing Ray Data resets its loggers
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptLog)
    shard_row: Any = ShardRow  # Ray's type hints accept functions only
    log = remote.remote()
    unfinished: set[int] | None = None  # shards in flight after `stop`

    def stop() -> None:
        nonlocal unfinished
        unfinished = ray.get(log.stop.remote())

    with _data_context(), postponed(stop):
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # passing the bounds is deprecated, without a replacement
            reports = rows.map(
                shard_row,
                fn_constructor_args=(log, partial(_in_session, session or current(), worker)),
                num_cpus=threads,
                num_gpus=pool.num_gpus or None,
                **_actor_options(rows.map, *(min(size, len(shards)) for size in pool.size)),
            )
        returned: set[int] = set()
        # `iter_rows` would hold back each report until the next one exists, for the time of a shard.
        tables = iter(reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with closing(tables):  # otherwise Ray Data would continue after Ray has ended
            while unfinished is None or unfinished - returned:
                try:
                    table = next(tables)
                except StopIteration:
                    return
                except Exception as error:  # Ray's errors share no base class
                    raise PoolError(f"{type(error).__name__}: {error}") from error
                for row in table.to_pylist():
                    returned.add(row["shard"])
                    if row["error"] != NOT_STARTED:
                        yield Report(**row)


@contextmanager
def _data_context() -> Iterator[None]:
    """Disable Ray Data's progress bars and its time limit per row, for the whole process; restored afterwards."""
    from ray.data import DataContext

    context = DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "execution_no_progress_timeout_s": -1}
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}  # differs by Ray version
    try:
        for name in before:
            setattr(context, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _actor_options(method: Any, low: int, high: int) -> dict[str, Any]:
    """Arguments of Ray Data's `method`: pool size, `CONCURRENT_ROWS` and `RAY_BOUNDS`, where this Ray accepts them."""
    from ray.data import ActorPoolStrategy

    sizes = {"size": high} if low == high else {"min_size": low, "max_size": high}
    concurrency = {"max_concurrent_calls_per_actor": CONCURRENT_ROWS, "enable_true_multi_threading": True}
    if not concurrency.keys() <= inspect.signature(ActorPoolStrategy.__init__).parameters.keys():
        concurrency = {}
    queue = CONCURRENT_ROWS if low == high else MAX_QUEUE
    parameters = inspect.signature(method).parameters
    any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    bounds = {name: value for name, value in RAY_BOUNDS.items() if any_name or name in parameters}
    return {"compute": ActorPoolStrategy(**sizes, max_tasks_in_flight_per_actor=queue, **concurrency), **bounds}


class AttemptLog:
    """Records the starts and reports of all shards in a separate Ray actor that outlives the workers."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()
        self.reports: dict[int, dict[str, Any]] = {}
        self.stopped = False

    def begin(self, shard: int) -> tuple[int, dict[str, Any] | None]:
        """Record the start of a shard; returns its number of starts, 0 after `stop`, and its report if it finished."""
        if self.stopped:
            return 0, None
        self.starts[shard] += 1
        return self.starts[shard], self.reports.get(shard)

    def stop(self) -> set[int]:
        """Prevent further starts; returns the shards in flight."""
        self.stopped = True
        return self.starts.keys() - self.reports.keys()

    def end(self, shard: int, report: dict[str, Any]) -> None:
        """Keep the report of a shard, whose process may die before it returns."""
        self.reports[shard] = report
