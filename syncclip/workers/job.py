"""Sharded jobs: the worker that runs in each actor, and the driver loop that retries failed shards.

A shard is done once its marker is stored. A shard's bytes don't depend on the actor, the processing order or the
attempt.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.text import counted, first_line
from syncclip.runtime.ray_session import capacity, cluster_address, local_cpus, require_nodes
from syncclip.workers.pool import PoolError, run_pool
from syncclip.workers.report import Report, failed
from syncclip.workers.settings import Pool

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Computation(Generic[Result]):
    """A shard that is being computed or is waiting to be committed."""

    report: Report
    finish: Callable[[], Result] | None
    """Function that completes the computation, possibly concurrently with the next shard; None after an error."""


class Worker(ABC, Generic[Result]):
    """Base class of an actor's worker, which holds the actor's models.

    `begin` is called for one shard at a time, while `commit` of the previous shard may run in another thread. Both
    methods return exceptions in the report, since Ray Data stops at the first raised exception.

    Args:
        threads: number of torch threads, which affects the least significant bits of the results.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._ready = False
        self._created, self._downloads = time.monotonic(), len(current().downloads)
        self._startup: dict[str, Any] = {}
        """Report fields about the loading of the models, until they have been reported."""

    @abstractmethod
    def load(self) -> None:
        """Load the models; called once, before the first shard."""

    @abstractmethod
    def start(self, shard: int) -> Callable[[], Result]:
        """Compute a shard, and return a function that completes it, possibly during the next call to `start`."""

    @abstractmethod
    def summary(self, result: Result) -> dict[str, Any]:
        """Return the report fields that describe a result."""

    @abstractmethod
    def write(self, result: Result, report: Report, seconds: float) -> None:
        """Write the files of a shard, its marker last; `seconds` is the time spent computing the shard."""

    def prepare(self) -> None:
        """Set the number of torch threads and load the models on the first call."""
        if not self._ready:
            import torch

            torch.set_num_threads(self.threads)
            self.load()
            seconds, downloaded = time.monotonic() - self._created, sum(current().downloads[self._downloads :])
            self._startup = {"cold_start": seconds, "downloaded": downloaded}
            self._ready = True

    def begin(self, shard: int) -> Computation[Result]:
        """Compute a shard, except for the part that may overlap with the next shard."""
        report = Report(shard, started=time.time(), worker=f"{platform.node()}:{os.getpid()}")
        try:
            self.prepare()
            report = report._replace(started=time.time(), **self._startup)
            self._startup = {}
            return Computation(report, self.start(shard))
        except Exception as error:
            return Computation(failed(report, error), None)

    def commit(self, computation: Computation[Result]) -> Report:
        """Finish a shard, write it, and return its report."""
        report, finish, computed = computation.report, computation.finish, time.time()
        if finish is not None:
            try:
                try:
                    result = finish()
                finally:
                    computed = time.time()
                report = report._replace(**self.summary(result))
                self.write(result, report, computed - report.started)
            except Exception as error:
                report = failed(report, error)
        ended = time.time()
        return report._replace(write=ended - computed, ended=ended)


class Job(Protocol):
    """Interface of a job that consists of shards."""

    def remaining(self) -> list[int]:
        """Return the unfinished shards."""

    def failure(self, shard: int, cause: str, remaining: int) -> str:
        """Return the error message for a permanently failed shard; `remaining` is the number of unfinished shards."""


def run_job(
    job: Job,
    todo: Sequence[int],
    worker: Callable[[], Worker[Any]],
    pool: Pool,
    threads: int,
    *,
    folder: str,
    lock_token: str | None = None,
    local: bool = False,
    limit: float = math.inf,
    seconds: float = 0.0,
) -> Iterator[Report]:
    """Run the shards in `todo` until all are done, or a shard failed after `pool.retries` retries.

    If the execution ends early, it is repeated; executions without a finished shard count as retries.

    Args:
        worker: factory for an actor's worker.
        threads: CPUs per actor.
        folder: URL of the folder that this process has locked.
        lock_token: lock token that allows the actors to write to the folder; None: no lock.
        local: run in this process, without retries.
        limit: limit of the actors' billed time in seconds; see `ShardQueue`.
        seconds: expected seconds per shard; 0 if unknown.

    Raises:
        LimitError: the next shard would exceed the limit.
        UserError: a shard failed permanently, or the lock was lost.
    """
    run: Callable[..., Iterator[Report]]
    if local:
        here = worker()
        run = lambda shards, **_: (here.commit(here.begin(shard)) for shard in shards)  # noqa: E731
    else:
        session = current().under_lock(folder, lock_token)
        run = partial(run_pool, worker=worker, pool=pool, threads=threads, session=session)
    fruitless, retries = 0, 0 if local else pool.retries
    while todo:
        errors: dict[int, Report] = {}
        crash = ""
        try:
            for report in run(todo, limit=limit, seconds=seconds):
                storage.locks.check(folder)
                limit -= report.billed
                if report.error:
                    errors[report.shard] = report
                    logger.debug("shard %d: %s", report.shard, report.trace)
                yield report
                if report.fatal:
                    break
        except PoolError as error:
            crash = f"Ray ended the execution early ({first_line(error)})"
            logger.debug("the actor pool failed: %s", error)
        if crash:
            gc.collect()  # a failed execution is part of a reference cycle, and its actors would keep their CPUs
        remaining = job.remaining()
        fruitless = fruitless + 1 if len(remaining) == len(todo) else 0
        worst = next((report for report in errors.values() if report.fatal), None)
        if worst is None and not crash:
            worst = next((errors[shard] for shard in remaining if shard in errors), None)
        if remaining and (worst or fruitless > retries):
            cause = worst.error if worst else crash or "its marker is missing, although its actor reported success"
            raise UserError(job.failure(worst.shard if worst else remaining[0], cause, len(remaining)))
        todo = remaining


def check_capacity(
    pool: Pool,
    threads: int,
    actors_key: str = "synthesis.actors",
    gpus_key: str = "synthesis.num_gpus",
    selector_key: str = "synthesis.label_selector",
) -> None:
    """Check that the pool fits on this machine or, if Ray is running, on the cluster at its maximum size.

    A cluster at RAY_ADDRESS needs capacity for only one actor. Error messages refer to the settings or options
    `actors_key`, `gpus_key` and `selector_key`.
    """
    import ray

    cluster = cluster_address() is not None
    selector = pool.label_selector or {}
    if ray.is_initialized() or not cluster:
        require_nodes(selector, selector_key)
    if ray.is_initialized():
        available = capacity(selector)
    elif not cluster:
        available = {"CPU": local_cpus()}
    else:
        return
    actors = 1 if cluster else pool.actors
    if actors * threads > available["CPU"]:
        cpus = int(available["CPU"])
        each = f" with {threads} threads each" if threads > 1 else ""
        raise UserError(
            f"{actors_key}: {counted(actors, 'actor')}{each} would need {counted(actors * threads, 'CPU')}, but "
            f"only {cpus} are available; use at most {max(1, cpus // threads)}, or set RAY_ADDRESS to a cluster"
        )
    if pool.num_gpus > 0 and "GPU" not in available:
        import torch

        if not torch.cuda.is_available():  # Ray detects GPUs once it is running
            raise UserError(f"{gpus_key} is {pool.num_gpus:g}, but this machine has no GPU; use 0")
    elif pool.num_gpus > available.get("GPU", 0):
        raise UserError(
            f"{gpus_key} is {pool.num_gpus:g}, but the cluster has {available['GPU']:g} GPUs and {available['CPU']:g} "
            "CPUs; use 0, or add machines with GPUs"
        )
