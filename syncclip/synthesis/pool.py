"""A pool of Ray Data actors that work on shards: one row a shard, bounded restarts, errors as rows, further rounds."""

from __future__ import annotations

import inspect
import logging
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.runtime import ray_session
from syncclip.runtime.shutdown import postponed
from syncclip.synthesis.settings import Pool
from syncclip.synthesis.status import Report

MAX_STARTS = 2
"""How often a shard is started in a round. One that kills its process (mostly out of memory) becomes an error."""

CALLS = 2
"""Rows that an actor works on at a time: while one shard is finished and written, the next is generated."""

QUICK = 0.5
"""A shard is written while the next one is generated only where writing takes at most this share of the time: a killed
process loses the shard that it writes and what it has of the next, which should be one shard at most on average."""

QUEUE = 4
"""Rows that are sent to an actor at a time, those that it works on included. A pool grows while queues are full."""

RAY_BOUNDS = {"max_restarts": 4, "max_task_retries": 2}
"""Ray Data would restart actors without end; `MAX_STARTS` acts first, this where it can't."""


NOT_BEGUN = "not begun"
"""In place of an error, of a shard that came when no more were to be started."""


logger = logging.getLogger(__name__)


class PoolError(RuntimeError):
    """The pool gave up: its actors died more often than Ray may restart them. What was committed stays."""


class Worker(Protocol):
    """Makes shards; a `ShardWorker`. Errors come back in the report, never raised."""

    def generate(self, shard: int) -> Any:
        """Called for one shard at a time; what it gives is always committed."""

    def commit(self, uncommitted: Any) -> Report:
        """Called with what `generate` gave, while the next shard may be generated."""


class ShardRow:
    """What Ray Data calls for each row, from `CALLS` threads; gives up a shard whose process died too often."""

    def __init__(self, log: Any, worker: Callable[[], Worker]) -> None:
        self.log = log
        self.worker = worker()
        self._turn, self._committing = threading.Lock(), threading.Lock()
        self._quick = False
        """Whether the last shard was written quickly enough."""

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        import ray

        shard = int(row["shard"])
        with ExitStack() as turn:
            turn.enter_context(self._turn)
            starts, done = ray.get(self.log.begin.remote(shard))
            if not starts:
                return Report(shard, error=NOT_BEGUN)._asdict()
            deaths = starts - 1
            if done is not None:  # its process died with the report on its way
                return {**done, "deaths": 1}
            if deaths >= MAX_STARTS:
                now = time.time()
                error = f"its process died {deaths} times (out of memory, or killed)"
                return Report(shard, started=now, ended=now, deaths=1, error=error)._asdict()
            if deaths:  # one that may be deadly takes no other with it, before or behind it
                turn.enter_context(self._committing)
            uncommitted = self.worker.generate(shard)
            if self._quick and not deaths:
                turn.close()
            with nullcontext() if deaths else self._committing:
                report = self.worker.commit(uncommitted)
            self._quick = report.write <= QUICK * (report.ended - report.started - report.write)
            ended = report._replace(deaths=min(1, deaths))._asdict()
            ray.get(self.log.end.remote(shard, ended))
            return ended


def _worker_of(session: Session, make: Callable[[], Worker]) -> Worker:
    """Make the worker of an actor, whose process stays in the session."""
    session.enter()
    return make()


def run_round(
    shards: Sequence[int],
    worker: Callable[[], Worker],
    pool: Pool,
    threads: int = 1,
    session: Session | None = None,
) -> Iterator[Report]:
    """Generate shards on the initialised Ray; their reports come as they get done.

    Args:
        shards: shard numbers, in the order in which they are handed out; an actor may begin its two in either order.
        worker: called once in each actor; what it returns (a `ShardWorker`) generates the shard of a row.
        pool: the actors; their number grows while queues are full.
        threads: CPUs of an actor.
        session: entered by each actor; the current one by default.

    Raises:
        Interrupted: a signal came; no more shards were started, and those in flight are finished.
        PoolError: actors died more often than `RAY_BOUNDS` allows.
    """
    import ray
    import ray.data

    ray_session.quiet()  # importing Ray Data resets its loggers
    remote: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(AttemptLog)
    shard_row: Any = ShardRow  # Ray's types know functions only
    log = remote.remote()
    unfinished: set[int] | None = None  # of the shards in flight, once no more are started

    def stop() -> None:
        nonlocal unfinished
        unfinished = ray.get(log.stop.remote())

    with _data_context(), postponed(stop):
        specs = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # passing the bounds is deprecated, but there is no other way yet
            reports = specs.map(
                shard_row,
                fn_constructor_args=(log, partial(_worker_of, session or current(), worker)),
                num_cpus=threads,
                num_gpus=pool.num_gpus or None,
                **_actors(specs.map, *(min(size, len(shards)) for size in pool.size)),
            )
        back: set[int] = set()
        # `iter_rows` would keep each report back until the next one is there: a shard's time.
        tables = iter(reports.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        with closing(tables):  # else Ray Data would go on, even where Ray has ended
            while unfinished is None or unfinished - back:
                try:
                    table = next(tables)
                except StopIteration:
                    return
                except Exception as error:  # Ray's errors share no class
                    raise PoolError(f"{type(error).__name__}: {error}") from error
                for row in table.to_pylist():
                    back.add(row["shard"])
                    if row["error"] != NOT_BEGUN:
                        yield Report(**row)


def rounds(
    todo: Sequence[int],
    left: Callable[[], list[int]],
    failure: Callable[[int, str, int], str],
    retries: int,
    run: Callable[[Sequence[int]], Iterator[Report]],
) -> Iterator[Report]:
    """Run `todo`, then what is left, until nothing is or `retries` rounds brought nothing.

    Args:
        left: the shards that are not done.
        failure: the sentence about a shard that failed for good, from its number, the cause, and how many are left.
        run: `run_round` of a worker and a pool.

    Raises:
        UserError: shards failed for good.
    """
    fruitless, again = 0, False
    while todo:
        failed: dict[int, Report] = {}
        crash = ""
        try:
            for report in run(todo):
                if report.error:
                    failed[report.shard] = report
                    logger.debug("shard %d: %s", report.shard, report.trace)
                yield report
                if report.fatal:
                    break
        except PoolError as error:
            crash = "its processes kept dying (out of memory, or killed)"
            logger.debug("the pool of actors ended: %s", error)
        missing = left()
        fruitless += again and len(missing) == len(todo)
        fatal = next((report for report in failed.values() if report.fatal), None)
        if missing and (fatal or fruitless >= retries):
            worst = fatal or next((failed[shard] for shard in missing if shard in failed), None)
            cause = worst.error if worst else crash or "it was reported as done, but its marker isn't there"
            raise UserError(failure(worst.shard if worst else missing[0], cause, len(missing)))
        # What failed goes last. Who died left no row: turn the order round, so that a deadly shard can't starve others.
        todo = sorted(missing, key=lambda shard: (shard in failed, -shard if crash and not again else shard))
        again = True


@contextmanager
def _data_context() -> Iterator[None]:
    """Ray Data without bars, and without a limit on how long a shard may take; restored afterwards.

    Set for the whole process: in earlier versions of Ray the bars don't ask the context of their dataset.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "execution_no_progress_timeout_s": -1}
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}  # each Ray knows some of them
    try:
        for name in before:
            setattr(context, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _actors(method: Any, least: int, most: int) -> dict[str, Any]:
    """Arguments of Ray Data's `method`: the pool's size, `CALLS` rows at a time in an actor, and `RAY_BOUNDS`.

    The latter two only where this Ray takes them: earlier versions don't know the one, later ones drop the other.
    """
    from ray.data import ActorPoolStrategy

    sizes = {"size": most} if least == most else {"min_size": least, "max_size": most}
    calls = {"max_concurrent_calls_per_actor": CALLS, "enable_true_multi_threading": True}
    if not calls.keys() <= inspect.signature(ActorPoolStrategy.__init__).parameters.keys():
        calls = {}
    queue = CALLS if least == most else QUEUE
    parameters = inspect.signature(method).parameters
    free = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    bounds = {name: value for name, value in RAY_BOUNDS.items() if free or name in parameters}
    return {"compute": ActorPoolStrategy(**sizes, max_tasks_in_flight_per_actor=queue, **calls), **bounds}


class AttemptLog:
    """How often each shard was started, and its report; a Ray actor beside the pool that outlives the workers."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()
        self.reports: dict[int, dict[str, Any]] = {}
        self.stopped = False

    def begin(self, shard: int) -> tuple[int, dict[str, Any] | None]:
        """Record that a shard is started; how often that was, and its report if it was finished before.

        After `stop` none is started: 0.
        """
        if self.stopped:
            return 0, None
        self.starts[shard] += 1
        return self.starts[shard], self.reports.get(shard)

    def stop(self) -> set[int]:
        """Let no more shards be started; those that were and have not ended."""
        self.stopped = True
        return self.starts.keys() - self.reports.keys()

    def end(self, shard: int, report: dict[str, Any]) -> None:
        """Keep the report of a shard, which its process may not live to hand over."""
        self.reports[shard] = report
