"""A pool of Ray Data actors, with one row per attempt at a shard, and errors returned as rows."""

from __future__ import annotations

import inspect
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, cast

import psutil

from syncclip.core.session import Session, current
from syncclip.runtime import ray_session
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.shutdown import postponed
from syncclip.workers.queue import BEAT, ShardQueue
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

MAX_STARTS = 2
"""Maximum number of starts per attempt. An attempt fails if its process dies this often (usually from running out of
memory)."""

CONCURRENT_ROWS = 2
"""Maximum number of in-flight rows per actor, so that one shard is written while the next is computed."""

MAX_OVERLAP_SHARE = 0.5
"""Maximum ratio of a shard's write time to its compute time at which writing overlaps with the next shard. A killed
process then loses at most one shard on average: the shard being written plus the finished part of the next shard."""

MAX_QUEUE = 4
"""Maximum number of running or queued rows per actor in a growing pool. The pool grows while the queues are full."""

MAX_DEATHS = 10
"""Maximum number of consecutive deaths of an actor without a successful shard; other deaths are unlimited, because
spot machines are lost all the time."""

AHEAD = 8
"""Number of shards that are assigned in addition to those that fill the actors' queues."""

NOT_STARTED = "not started"
"""Error for rows that arrived after the pool was stopped, or whose shard has a new ticket."""


class LimitError(Exception):
    """Raised if the pool stopped before a shard that would exceed the limit of billed time; see `ShardQueue`."""


class PoolError(RuntimeError):
    """Raised if the pool's execution ended early, e.g. because its queue was lost. Committed shards are kept."""


class ShardRow:
    """Callable that Ray Data runs in `CONCURRENT_ROWS` threads of an actor.

    Args:
        queue: handle of the `ShardQueue` actor.
        worker: factory for the actor's `Worker`.
        session: session that the actor's process enters.
    """

    def __init__(self, queue: Any, worker: Callable[[], Any], session: Session | None = None) -> None:
        import ray

        if session is not None:
            session.enter()
        self.queue = queue
        self.worker = worker()
        self.actor = ray.get_runtime_context().get_actor_id() or ""
        age = time.time() - psutil.Process().create_time()
        self._deaths: int = ray.get(queue.arrive.remote(self.actor, age))
        self._beating = repeating(self._beat, BEAT)
        self._beating.__enter__()  # until the process ends
        self._computing, self._committing = threading.Lock(), threading.Lock()
        self._overlap = False
        """Whether the last shard was written fast enough for writing to overlap with the next shard."""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        ticket, shard = int(row["ticket"]), int(row["shard"])
        self._beat(ticket)
        with ExitStack() as turn:
            turn.enter_context(self._computing)
            if self._deaths > MAX_DEATHS:
                cause = f"an actor's process died {self._deaths} times in a row (out of memory, or killed)"
                return self._end(ticket, _died(shard, cause)._replace(fatal=True))
            with suppress(Exception):  # `begin` repeats a failed start, and returns its error in the report
                self.worker.prepare()
            starts, done = ray.get(self.queue.begin.remote(ticket))
            if not starts:
                return {"ticket": ticket, **Report(shard, error=NOT_STARTED)._asdict()}
            deaths = starts - 1
            if done is not None:  # the process died between writing the shard and returning the report
                return {**done, "deaths": 1}
            if deaths >= MAX_STARTS:
                return self._end(ticket, _died(shard, f"its process died {deaths} times (out of memory, or killed)"))
            if deaths:  # it may kill the process again, so keep no other shard in flight
                turn.enter_context(self._committing)
            computation = self.worker.begin(shard)
            if self._overlap and not deaths:
                turn.close()
            with nullcontext() if deaths else self._committing:
                report = self.worker.commit(computation)
            self._overlap = report.write <= MAX_OVERLAP_SHARE * (report.ended - report.started - report.write)
            return self._end(ticket, report._replace(deaths=min(1, deaths)))

    def _beat(self, ticket: int | None = None) -> None:
        with suppress(Exception):  # the queue or Ray has ended
            self.queue.beat.remote(self.actor, ticket)

    def _end(self, ticket: int, report: Report) -> dict[str, Any]:
        """Record a report in the queue, and return its row."""
        import ray

        row = {"ticket": ticket, **report._asdict()}
        return cast(dict[str, Any], ray.get(self.queue.end.remote(ticket, row, self.actor)))


def _died(shard: int, error: str) -> Report:
    """Return the report of a shard whose process died."""
    now = time.time()
    return Report(shard, started=now, ended=now, deaths=1, error=error)


def run_pool(
    shards: Sequence[int],
    worker: Callable[[], Any],
    pool: Pool,
    threads: int = 1,
    session: Session | None = None,
    limit: float = math.inf,
    seconds: float = 0.0,
) -> Iterator[Report]:
    """Compute shards on the running Ray cluster in a single execution, and yield a report after each attempt.

    A shard that fails is retried up to `pool.retries` times, after all other shards, so it may have several reports.
    Shards are assigned as actors become available, so memory use does not depend on the number of shards waiting.

    Args:
        shards: shard numbers in submission order.
        worker: factory for an actor's `Worker`.
        threads: number of CPUs per actor.
        session: session of the actors; default: the current session.
        limit: limit of the billed time in seconds; see `ShardQueue`.
        seconds: expected seconds per shard; 0 if unknown.

    Raises:
        LimitError: the next shard would exceed the limit, and the shards in flight are finished.
        Interrupted: a signal was received, and the shards in flight are finished.
        PoolError: the execution ended early.
    """
    import ray
    import ray.data
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray_session.quiet()  # importing Ray Data resets its loggers
    strategy: Any = ray.data.ActorPoolStrategy
    threading_options = {"max_concurrent_calls_per_actor": CONCURRENT_ROWS, "enable_true_multi_threading": True}
    if not threading_options.keys() <= inspect.signature(strategy.__init__).parameters.keys():
        threading_options = {}  # this version of Ray Data supports one thread per actor
    low, high = (min(size, len(shards)) for size in pool.size)
    sizes = {"size": high} if low == high else {"min_size": low, "max_size": high}
    rows_per_actor = CONCURRENT_ROWS if low == high else MAX_QUEUE
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(num_cpus=0, max_task_retries=-1, scheduling_strategy=here)(ShardQueue)
    queue = remote.remote(list(shards), pool.retries, high * rows_per_actor + AHEAD, limit, seconds)
    shard_row = cast(Any, ShardRow)  # Ray's type hints accept functions only
    unfinished: set[int] | None = None  # tickets in flight after `stop`
    at_limit = False

    def stop() -> None:
        nonlocal unfinished
        unfinished = ray.get(queue.stop.remote())

    with _data_context(), postponed(stop):
        source = ray.data.from_items([{"ticket": 0}], override_num_blocks=1)
        reports = source.flat_map(partial(_assignments, queue), num_cpus=0).map(
            shard_row,
            fn_constructor_args=(queue, worker, session or current()),
            num_cpus=threads,
            num_gpus=pool.num_gpus or None,
            label_selector=dict(pool.label_selector) if pool.label_selector else None,
            compute=strategy(**sizes, max_tasks_in_flight_per_actor=rows_per_actor, **threading_options),
        )
        returned: set[int] = set()
        # `iter_rows` would return each report only once the next one exists.
        tables = iter(reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with closing(tables):  # otherwise Ray Data would continue after Ray has shut down
            while unfinished is None or unfinished - returned:
                try:
                    table = next(tables)
                except StopIteration:
                    break
                except Exception as error:  # Ray's errors share no base class
                    raise PoolError(f"{type(error).__name__}: {error}") from error
                for row in table.to_pylist():
                    ticket = row.pop("ticket")
                    if unfinished is not None:
                        returned.add(ticket)
                    started = row["error"] != NOT_STARTED
                    ended: bool | None = False if started else None
                    with suppress(RayError):  # if the queue was lost, the execution ends early
                        ended = ray.get(queue.receive.remote(ticket))
                        if not started and unfinished is None:
                            unfinished = ray.get(queue.unfinished.remote())
                            at_limit = unfinished is not None
                    if ended is not None:
                        yield Report(**row)
                    if ended:
                        return
        if at_limit:
            raise LimitError


def _assignments(queue: Any, row: Mapping[str, Any]) -> Iterator[dict[str, int]]:
    """Yield a row for each attempt at a shard, as soon as the queue assigns it."""
    import ray

    for ticket in itertools.count(row["ticket"]):
        shard = ray.get(queue.assign.remote(ticket))
        if shard is None:
            return
        yield {"ticket": ticket, "shard": shard}


@contextmanager
def _data_context() -> Iterator[None]:
    """Disable Ray Data's progress bars and per-row time limit, limit blocks to one row, and restore all afterwards."""
    from ray.data import DataContext

    context = DataContext.get_current()
    values = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "execution_no_progress_timeout_s": -1,
        "target_max_block_size": 1,
    }
    before = {name: getattr(context, name) for name in values if hasattr(context, name)}  # differs by Ray version
    try:
        for name in before:
            setattr(context, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
