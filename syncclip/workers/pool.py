"""A pool of Ray Data actors, with one row per shard, bounded restarts, and errors returned as rows."""

from __future__ import annotations

import inspect
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any, cast

from syncclip.core.session import Session, current
from syncclip.runtime import ray_session
from syncclip.runtime.shutdown import postponed
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

MAX_STARTS = 2
"""Maximum number of attempts per shard and round. A shard fails if its process dies this often (usually from
running out of memory)."""

CONCURRENT_ROWS = 2
"""Maximum number of in-flight rows per actor, so that one shard is written while the next is computed."""

MAX_OVERLAP_SHARE = 0.5
"""Maximum ratio of a shard's write time to its compute time at which writing overlaps with the next shard. A killed
process then loses at most one shard on average: the shard being written plus the finished part of the next shard."""

MAX_QUEUE = 4
"""Maximum number of running or queued rows per actor in a growing pool. The pool grows while the queues are full."""

RAY_BOUNDS = {"max_restarts": 4, "max_task_retries": 2}
"""Maximum numbers of restarts and retries if a process dies before a shard starts; Ray Data's default is no limit."""

NOT_STARTED = "not started"
"""Error for rows that arrived after the pool was stopped."""


class PoolError(RuntimeError):
    """Raised if actors die more often than `RAY_BOUNDS` allows. Committed shards are kept."""


class ShardRow:
    """Callable that Ray Data runs in `CONCURRENT_ROWS` threads of an actor.

    Args:
        log: handle of the `AttemptLog` actor.
        worker: factory for the actor's `Worker`.
        session: session that the actor's process enters.
    """

    def __init__(self, log: Any, worker: Callable[[], Any], session: Session | None = None) -> None:
        if session is not None:
            session.enter()
        self.log = log
        self.worker = worker()
        self._computing, self._committing = threading.Lock(), threading.Lock()
        self._overlap = False
        """Whether the last shard was written fast enough for writing to overlap with the next shard."""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        shard = int(row["shard"])
        with ExitStack() as turn:
            turn.enter_context(self._computing)
            starts, done = ray.get(self.log.begin.remote(shard))
            if not starts:
                return Report(shard, error=NOT_STARTED)._asdict()
            deaths = starts - 1
            if done is not None:  # the process died between writing the shard and returning the report
                return {**done, "deaths": 1}
            if deaths >= MAX_STARTS:
                now = time.time()
                error = f"its process died {deaths} times (out of memory, or killed)"
                return Report(shard, started=now, ended=now, deaths=1, error=error)._asdict()
            if deaths:  # it may kill the process again, so keep no other shard in flight
                turn.enter_context(self._committing)
            computation = self.worker.begin(shard)
            if self._overlap and not deaths:
                turn.close()
            with nullcontext() if deaths else self._committing:
                report = self.worker.commit(computation)
            self._overlap = report.write <= MAX_OVERLAP_SHARE * (report.ended - report.started - report.write)
            ended: dict[str, Any] = report._replace(deaths=min(1, deaths))._asdict()
            ray.get(self.log.end.remote(shard, ended))
            return ended


def run_round(
    shards: Sequence[int], worker: Callable[[], Any], pool: Pool, threads: int = 1, session: Session | None = None
) -> Iterator[Report]:
    """Compute shards on the running Ray cluster, and yield a report for each shard as soon as it is finished.

    Args:
        shards: shard numbers in submission order.
        worker: factory for an actor's `Worker`.
        threads: number of CPUs per actor.
        session: session of the actors; default: the current session.

    Raises:
        Interrupted: a signal was received, and the shards in flight are finished.
        PoolError: actors died more often than `RAY_BOUNDS` allows.
    """
    import ray
    import ray.data

    ray_session.quiet()  # importing Ray Data resets its loggers
    strategy: Any = ray.data.ActorPoolStrategy
    threading_options = {"max_concurrent_calls_per_actor": CONCURRENT_ROWS, "enable_true_multi_threading": True}
    if not threading_options.keys() <= inspect.signature(strategy.__init__).parameters.keys():
        threading_options = {}  # this version of Ray Data supports one thread per actor
    low, high = (min(size, len(shards)) for size in pool.size)
    sizes = {"size": high} if low == high else {"min_size": low, "max_size": high}
    queue = CONCURRENT_ROWS if low == high else MAX_QUEUE
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptLog)
    log, shard_row = remote.remote(), cast(Any, ShardRow)  # Ray's type hints accept functions only
    unfinished: set[int] | None = None  # shards in flight after `stop`

    def stop() -> None:
        nonlocal unfinished
        unfinished = ray.get(log.stop.remote())

    with _data_context(), postponed(stop):
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the arguments `RAY_BOUNDS` are deprecated, without a replacement
            reports = rows.map(
                shard_row,
                fn_constructor_args=(log, worker, session or current()),
                num_cpus=threads,
                num_gpus=pool.num_gpus or None,
                compute=strategy(**sizes, max_tasks_in_flight_per_actor=queue, **threading_options),
                **RAY_BOUNDS,
            )
        returned: set[int] = set()
        # `iter_rows` would return each report only once the next one exists.
        tables = iter(reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with closing(tables):  # otherwise Ray Data would continue after Ray has shut down
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
    """Disable Ray Data's progress bars and per-row time limit in this process, and restore them afterwards."""
    from ray.data import DataContext

    context = DataContext.get_current()
    values = {"enable_progress_bars": False, "print_on_execution_start": False, "execution_no_progress_timeout_s": -1}
    before = {name: getattr(context, name) for name in values if hasattr(context, name)}  # differs by Ray version
    try:
        for name in before:
            setattr(context, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


class AttemptLog:
    """Log of all shards' starts and reports, kept in a separate Ray actor that outlives the workers."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()
        self.reports: dict[int, dict[str, Any]] = {}
        self.stopped = False

    def begin(self, shard: int) -> tuple[int, dict[str, Any] | None]:
        """Record that a shard was started; return its number of starts (0 after `stop`) and its report, if any."""
        if self.stopped:
            return 0, None
        self.starts[shard] += 1
        return self.starts[shard], self.reports.get(shard)

    def stop(self) -> set[int]:
        """Prevent further starts, and return the shards in flight."""
        self.stopped = True
        return self.starts.keys() - self.reports.keys()

    def end(self, shard: int, report: dict[str, Any]) -> None:
        """Record a shard's report before the actor returns it, since the actor's process may die."""
        self.reports[shard] = report
