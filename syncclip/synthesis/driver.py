"""The synthesis driver, which sends uncommitted shards to a pool of actors and aggregates the actors' reports."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.trust import require_trust
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.progress import Progress
from syncclip.runtime.ray_session import cluster_address, ray_session
from syncclip.shards.index import forget_index, index_set, read_index
from syncclip.shards.markers import committed, markers, shard_name, stats_name, table_name
from syncclip.storage.status_file import keep_status_file
from syncclip.synthesis.autotune import tuned
from syncclip.synthesis.early_stop import RejectionMonitor
from syncclip.synthesis.filters import with_absolute_paths
from syncclip.synthesis.generators.settings import TOKEN
from syncclip.synthesis.generators.weights import Located, locate
from syncclip.synthesis.plan import PLAN_NAME, Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.status import (
    GAUGE_INTERVAL_SECONDS,
    STATUS_NAME,
    SynthesisMetrics,
    SynthesisStatus,
    mark_complete,
)
from syncclip.synthesis.summary import SUMMARY_NAME, SetSummary, Work, summarise
from syncclip.synthesis.worker import ShardWorker
from syncclip.workers.job import check_capacity, run_job
from syncclip.workers.settings import ONE_ACTOR, Pool

Observer = Callable[[SynthesisStatus], None]


def synthesise_set(
    requested: Plan,
    url: str,
    pool: Pool = ONE_ACTOR,
    *,
    place_assets: Callable[[Plan, str], Plan] | None = None,
    show: bool = True,
    observe: Observer | None = None,
) -> SetSummary:
    """Generate the missing shards of the synthetic dataset at `url`, and return its totals.

    After a crash, repeat the call to complete the dataset: only the shards that were in flight are regenerated, and the
    result is byte-identical. Ray and the generator are started only if shards are missing.

    Args:
        requested: plan from `draft`; an existing dataset with fewer images is extended.
        url: folder or URL of the dataset, accessible from all machines of a cluster.
        pool: size and resources of the actor pool.
        place_assets: callback that writes assets, such as filter heads, and returns the plan with asset checksums.
        show: whether to show progress on stderr.
        observe: callback that receives the status after each shard.

    Raises:
        UserError: the generator is missing, the folder is read-only or contains a different plan, there are too few
            CPUs or GPUs, or a shard failed permanently. Committed shards are kept.
    """
    url = str(storage.local_path(url).resolve()) if storage.is_local(url) else url  # actors run in other folders
    with ExitStack() as locks:
        if not has_all(requested, url):
            locks.enter_context(storage.lock(url, "synth"))
        stored = read_plan(url)
        if stored is None and next(markers(url), None) is not None:
            raise UserError(f"{url} contains shards but no {PLAN_NAME}; use a different folder, or restore {PLAN_NAME}")
        plan = requested if stored is None else agreed_plan(requested, stored, url)
        require_trust(plan.generator.pipeline_class, "generator.pipeline_class: ")
        if place_assets is not None:
            plan = place_assets(plan, url)
        images = {shard: len(plan.shard_range(shard)) for shard in plan.shards(requested.images_per_class)}
        done = {stats.shard for stats in markers(url)}  # read after `place_assets`, which may take minutes
        todo = [shard for shard in images if shard not in done]
        work = None
        if todo:
            hold = locks.enter_context(storage.lock(url, "synth"))  # not locked above if all files exist
            located = locate(plan.generator, plan.weights)
            plan = plan.model_copy(update={"weights": located.fingerprint})
            check_capacity(pool, plan.threads)
            if stored is None and plan.generator.batch_size == "auto":
                plan = tuned(plan, located, pool)
            if plan != stored:
                write_plan(plan, url)
            job = _Job(plan, url, images, todo, pool, hold.token, new=stored is None)
            work = _generate(job, located, show, observe)
        final = read_plan(url)  # again, since files may have been deleted during the run
        summary = None if final is None else summarise(final, url, work)
        storage.require(url, (*files_of(requested), SUMMARY_NAME))
        assert summary is not None
        if not todo:
            if read_index(url, owner=plan.owner) is None:
                with suppress(UserError), storage.lock(url, "synth"):  # the folder may be read-only
                    index_set(url, plan.owner)
            mark_complete(url, summary.images, summary.planned, plan.owner)
        return summary


def files_of(requested: Plan) -> Iterator[str]:
    """Yield the names of all files in the plan's dataset."""
    yield PLAN_NAME
    for shard in requested.shards(requested.images_per_class):
        yield from (shard_name(shard), table_name(shard), stats_name(shard))


def has_all(requested: Plan, url: str) -> bool:
    """Return whether all files of the plan's dataset exist; this requires a single listing."""
    return storage.sizes(url).keys() >= set(files_of(requested))


@dataclass(frozen=True)
class _Job:
    """Job that generates the missing shards of a synthetic dataset."""

    plan: Plan
    url: str
    images: Mapping[int, int]
    """Number of images in each requested shard, by shard number."""
    todo: Sequence[int]
    pool: Pool
    lock_token: str
    """Lock token that allows the actors to write to the dataset."""
    new: bool
    """Whether this run created the dataset. The plan of a new dataset is removed if no shard is generated."""

    def remaining(self) -> list[int]:
        """Return the shards without a marker."""
        done = {stats.shard for stats in markers(self.url, owner=self.plan.owner)}
        return [shard for shard in self.images if shard not in done]

    def failure(self, shard: int, cause: str, remaining: int) -> str:
        """Return the error message for a shard that failed permanently."""
        count = len(self.images)
        return (
            f"shard {shard_name(shard)} could not be generated: {cause}; {count - remaining} of {count} shards are "
            f"committed in {self.url}; run the same command to resume"
        )


def _generate(job: _Job, located: Located, show: bool, observe: Observer | None) -> Work:
    """Generate the missing shards, report progress, and write the index."""
    plan, url, began = job.plan, job.url, time.monotonic()
    forget_index(url)
    planned, missing = sum(job.images.values()), sum(job.images[shard] for shard in job.todo)
    status = SynthesisStatus.begin(planned=planned, images=planned - missing, most=min(job.pool.size[1], len(job.todo)))
    monitor = RejectionMonitor(plan, markers(url, owner=plan.owner))
    generating = False
    try:
        # Actors run in other folders, so the paths in their plan are absolute.
        paths = {"generator": located.placed(plan.generator), "filters": with_absolute_paths(plan.filters)}
        placed = plan.model_copy(update=paths).model_dump_json()
        token = os.environ.get(TOKEN) if plan.generator.endpoint else None
        worker = partial(ShardWorker, placed, url, job.pool.device, located.source, token, plan.owner)
        with ExitStack() as stack:
            stack.enter_context(keep_status_file(storage.join(url, STATUS_NAME), status, plan.owner))
            line = (
                stack.enter_context(Progress(planned, "images", "synth", done=status.images, phase="starting Ray"))
                if show
                else None
            )
            stack.enter_context(ray_session())
            metrics = SynthesisMetrics(url)
            stack.enter_context(repeating(partial(metrics.set_gauges, status), GAUGE_INTERVAL_SECONDS))
            check_capacity(job.pool, plan.threads)
            generating = True
            if line is not None:
                line.begin(f"loading weights and generating the first shards of {plan.dataset}")
            for report in run_job(job, job.todo, worker, job.pool, plan.threads, folder=url, lock_token=job.lock_token):
                images = job.images[report.shard]
                status.count(report, images)
                metrics.count(report, images)
                if line is not None:
                    line.rate = status.rate
                    line.update(0 if report.error else images, dataset=plan.dataset, **status.facts())
                if observe is not None:
                    observe(status)
                if not report.error:
                    rejected = json.loads(report.classes_without_accepted)
                    monitor.take(report.shard, {int(label): reason for label, reason in rejected.items()})
                    monitor.check()
    except BaseException as error:
        # Remove the plan of a dataset without shards to allow other settings in this folder. After an interruption,
        # however, a cluster's actors may still commit a shard, which needs the plan.
        ended = not generating or isinstance(error, UserError) or cluster_address() is None
        if job.new and ended and not committed(url, owner=plan.owner):
            storage.remove(storage.join(url, PLAN_NAME))
        raise
    seconds, busy = round(time.monotonic() - began, 3), status.busy["generate"]
    index_set(url, plan.owner)
    return Work(images=status.fresh, seconds=seconds, rate=status.rate, busy=busy, computed=status.computed)
