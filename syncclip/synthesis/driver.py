"""The synthesis driver, which sends uncommitted shards to a pool of actors and aggregates the actors' reports."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
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
from syncclip.shards.index import INDEX, forget_index, index_set, read_index
from syncclip.shards.markers import (
    FILES,
    GROUP,
    LISTED,
    committed,
    markers,
    markers_without_listing,
    shard_name,
    write_group,
    write_missing_groups,
)
from syncclip.storage.status_file import keep_status_file
from syncclip.synthesis.autotune import tuned
from syncclip.synthesis.budget import Budget
from syncclip.synthesis.early_stop import RejectionMonitor
from syncclip.synthesis.filters import with_absolute_paths
from syncclip.synthesis.generators.licences import licence_of
from syncclip.synthesis.generators.settings import TOKEN
from syncclip.synthesis.generators.weights import Located, locate
from syncclip.synthesis.plan import PLAN_NAME, Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.settings import CostSettings
from syncclip.synthesis.status import (
    GAUGE_INTERVAL_SECONDS,
    SynthesisMetrics,
    SynthesisStatus,
    mark_complete,
    overlapping_parts,
    part_names,
    read_status,
    status_name,
)
from syncclip.synthesis.summary import SUMMARY_NAME, SetSummary, Work, summarise
from syncclip.synthesis.worker import ShardWorker
from syncclip.workers.job import check_capacity, run_job
from syncclip.workers.pool import LimitError
from syncclip.workers.report import Report
from syncclip.workers.settings import ONE_ACTOR, Pool

Observer = Callable[[SynthesisStatus], None]

FREE = CostSettings()
"""No price and no budget."""
MAX_WAIT = 3600.0
"""Maximum time in seconds to wait while another job writes the plan or completes the dataset."""


def synthesise_set(
    requested: Plan,
    url: str,
    pool: Pool = ONE_ACTOR,
    *,
    cost: CostSettings = FREE,
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
        cost: price and budget.
        place_assets: callback that writes assets, such as filter heads, and returns the plan with asset checksums.
        show: whether to show progress on stderr.
        observe: callback that receives the status after each shard.

    Raises:
        UserError: the generator is missing, the folder is read-only or contains a different plan, there are too few
            CPUs or GPUs, the budget is reached, or a shard failed permanently. Committed shards are kept.
    """
    url = _absolute(url)
    with ExitStack() as locks:

        def lock() -> storage.Hold:
            return locks.enter_context(storage.lock(url, "synth"))

        if not is_complete(requested, url):
            lock()
        plan, job = _prepare(requested, url, pool, cost, place_assets, lock)
        work = None if job is None else _generate(job, show, observe)
        final = read_plan(url)  # again, since files may have been deleted during the run
        summary = None if final is None else summarise(final, url, work)
        storage.require(url, (*files_of(requested), SUMMARY_NAME))
        assert summary is not None
        if job is None:
            if read_index(url, owner=plan.owner) is None:
                with suppress(UserError), storage.lock(url, "synth"):  # the folder may be read-only
                    write_missing_groups(url, plan.shards(), plan.owner)
                    index_set(url, plan.owner)
            mark_complete(url, summary.images, summary.planned, plan.owner)
        return summary


def synthesise_part(
    requested: Plan,
    url: str,
    shards: range,
    pool: Pool = ONE_ACTOR,
    *,
    cost: CostSettings = FREE,
    place_assets: Callable[[Plan, str], Plan] | None = None,
    show: bool = True,
) -> None:
    """Generate the missing shards of a range; jobs on other clusters may generate other ranges at the same time.

    The first job writes the plan. Each job has its own status and budget. Once all shards are committed,
    `synthesise_set` completes the dataset, which is byte-identical to that of a single job.

    Args:
        shards: shards to generate.

    Raises:
        UserError: another job generates some of these shards or all shards; see also `synthesise_set`.
    """
    url = _absolute(url)
    if has_all(requested, url, shards):
        return
    command = f"synth --shards {shards.start}:{shards.stop}"

    def planned() -> bool:
        stored = read_plan(url)
        return stored is not None and stored.images_per_class >= requested.images_per_class

    with storage.lock(url, command, shards=shards) as hold:
        with ExitStack() as stack:
            if not planned():
                plan_url = storage.join(url, PLAN_NAME)
                stack.enter_context(storage.lock(plan_url, command, file=True, patience=MAX_WAIT))
                if planned():  # another job has written the plan
                    stack.close()
            _, job = _prepare(requested, url, pool, cost, place_assets, lambda: hold, shards)
        if job is not None:
            _generate(job, show, None)


def _absolute(url: str) -> str:
    return str(storage.local_path(url).resolve()) if storage.is_local(url) else url  # actors run in other folders


def _prepare(
    requested: Plan,
    url: str,
    pool: Pool,
    cost: CostSettings,
    place_assets: Callable[[Plan, str], Plan] | None,
    hold: Callable[[], storage.Hold],
    shards: range | None = None,
) -> tuple[Plan, _Job | None]:
    """Write the plan if necessary; return it with the job for its missing shards, or None if all are committed."""
    stored = read_plan(url)
    if stored is None and next(markers(url), None) is not None:
        raise UserError(f"{url} contains shards but no {PLAN_NAME}; use a different folder, or restore {PLAN_NAME}")
    plan = requested if stored is None else agreed_plan(requested, stored, url)
    require_trust(plan.generator.pipeline_class, "generator.pipeline_class: ")
    if place_assets is not None:
        plan = place_assets(plan, url)
    numbers = plan.shards(requested.images_per_class)
    images = {shard: len(plan.shard_range(shard)) for shard in numbers if shards is None or shard in shards}
    # Read after `place_assets`, which may take minutes.
    monitor, done = RejectionMonitor(plan), dict[int, float]()
    for stats in markers_without_listing(url, numbers, plan.owner):
        monitor.take_marker(stats)
        if stats.shard in images:
            done[stats.shard] = stats.seconds
    if len(done) == len(images):  # otherwise, missing files are noticed at the end of the job
        done = {stats.shard: stats.seconds for stats in markers(url) if stats.shard in images}
    todo = [shard for shard in images if shard not in done]
    if not todo:
        return plan, None
    token = hold().token
    located = locate(plan.generator, plan.weights)
    licence = licence_of(plan.generator, located) if stored is None else stored.licence
    plan = plan.model_copy(update={"weights": located.fingerprint, "licence": licence})
    check_capacity(pool, plan.threads)
    budget = _budget(plan, url, cost, pool, done, shards)
    budget.check(len(images) - len(todo), len(images))
    if stored is None and plan.generator.batch_size == "auto":
        plan = tuned(plan, located, pool)
    if stored is None or plan.to_store() != stored:
        write_plan(plan, url)
    new = stored is None and shards is None
    return plan, _Job(plan, url, images, todo, pool, budget, monitor, token, located, shards, new)


def _budget(
    plan: Plan, url: str, cost: CostSettings, pool: Pool, done: Mapping[int, float], shards: range | None
) -> Budget:
    """Return the budget at the start of a run; `done` maps committed shards to their durations in seconds.

    After a kill, the status lacks up to 15 s of the earlier run, but the markers contain all committed shards. A job
    that generates only some shards pays for its own shards, and for the jobs that it replaces.
    """
    paid, throughput = float(pool.billed_hours(sum(done.values()))), cost.throughput or math.inf
    hours, committed = paid, 0.0
    with suppress(UserError, OSError):
        status = read_status(url, plan.owner, "" if shards is None else status_name(shards))
        if shards is not None:
            committed = paid if status is None else status.committed
        hours = max(paid - committed, status.hours if status is not None else 0.0)
        for name in () if shards is None else overlapping_parts(url, shards):
            replaced = read_status(url, plan.owner, name)
            hours += replaced.hours if replaced is not None else 0.0
    mean = sum(done.values()) / len(done) if done else min(plan.shard_size, plan.total) / throughput
    return Budget(cost, pool, hours, mean, committed)


def files_of(requested: Plan, shards: range | None = None) -> Iterator[str]:
    """Yield the names of all files in the plan's dataset, or in a range of its shards."""
    yield PLAN_NAME
    for shard in requested.shards(requested.images_per_class) if shards is None else shards:
        yield from (name(shard) for name in FILES)


def has_all(requested: Plan, url: str, shards: range | None = None) -> bool:
    """Return whether all files of the plan's dataset, or of a range of its shards, exist, with a single listing."""
    sizes = storage.sizes(url, (*LISTED, PLAN_NAME))
    return all(name in sizes for name in files_of(requested, shards))  # a set of names would take up half a gigabyte


def is_complete(requested: Plan, url: str) -> bool:
    """Return whether the plan's dataset is complete; on an object store, a missing index means that it is not."""
    indexed = storage.is_local(url) or storage.exists(storage.join(url, INDEX))  # an unfinished dataset is not listed
    return indexed and has_all(requested, url)


@dataclass(frozen=True)
class _Job:
    """Job that generates the missing shards of a synthetic dataset."""

    plan: Plan
    url: str
    images: Mapping[int, int]
    """Number of images in each requested shard, by shard number."""
    todo: Sequence[int]
    pool: Pool
    budget: Budget
    monitor: RejectionMonitor
    lock_token: str
    """Lock token that allows the actors to write to the dataset."""
    located: Located
    shards: range | None
    """Range of shards, if other jobs generate the others."""
    new: bool
    """Whether this run created the dataset. The plan of a new dataset is removed if no shard is generated."""

    def remaining(self) -> list[int]:
        """Return the shards without a marker."""
        done = {stats.shard for stats in markers(self.url, owner=self.plan.owner)}
        return [shard for shard in self.images if shard not in done]

    def has_group(self, group: int) -> bool:
        """Return whether the job generates all shards of a group of markers."""
        last = min(GROUP * (group + 1), len(self.plan.shards())) - 1
        return self.shards is None or (GROUP * group in self.shards and last in self.shards)

    def failure(self, shard: int, cause: str, remaining: int) -> str:
        """Return the error message for a shard that failed permanently."""
        count = len(self.images)
        return (
            f"shard {shard_name(shard)} could not be generated: {cause}; {count - remaining} of {count} shards are "
            f"committed in {self.url}; run the same command to resume"
        )


def _reports(job: _Job, worker: Callable[[], ShardWorker]) -> Iterator[Report]:
    """Run the missing shards within the budget, and yield their reports."""
    try:
        yield from run_job(
            job,
            job.todo,
            worker,
            job.pool,
            job.plan.threads,
            folder=job.url,
            lock_token=job.lock_token,
            limit=job.budget.limit,
            seconds=job.budget.seconds,
        )
    except LimitError as error:
        raise job.budget.error(len(job.images) - len(job.remaining()), len(job.images)) from error


def _generate(job: _Job, show: bool, observe: Observer | None) -> Work:
    """Generate the missing shards, report progress, and write the index unless other jobs generate other shards."""
    plan, url, located, began = job.plan, job.url, job.located, time.monotonic()
    forget_index(url)
    for name in part_names(url) if job.shards is None else overlapping_parts(url, job.shards):
        storage.remove(storage.join(url, name))
    planned, missing = sum(job.images.values()), sum(job.images[shard] for shard in job.todo)
    status = SynthesisStatus.begin(
        planned=planned,
        images=planned - missing,
        most=min(job.pool.size[1], len(job.todo)),
        pool=job.pool,
        hours=job.budget.hours,
        committed=job.budget.committed,
        **job.budget.cost.model_dump(include={"price", "currency", "budget"}),
    )
    job.monitor.check()
    left = Counter(shard // GROUP for shard in job.todo)
    generating = False
    try:
        # Actors run in other folders, so the paths in their plan are absolute.
        paths = {"generator": located.placed(plan.generator), "filters": with_absolute_paths(plan.filters)}
        placed = plan.model_copy(update=paths).model_dump_json()
        token = os.environ.get(TOKEN) if plan.generator.endpoint else None
        worker = partial(ShardWorker, placed, url, job.pool.device, located.source, token, plan.owner)
        with ExitStack() as stack:
            stack.enter_context(keep_status_file(storage.join(url, status_name(job.shards)), status, plan.owner))
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
            for report in _reports(job, worker):
                images = job.images[report.shard]
                status.count(report, images)
                metrics.count(report, images)
                if line is not None:
                    line.rate = status.rate
                    line.update(0 if report.error else images, dataset=plan.dataset, **status.facts())
                if observe is not None:
                    observe(status)
                if not report.error:
                    group = report.shard // GROUP
                    left[group] -= 1
                    if not left[group] and len(plan.shards()) > GROUP and job.has_group(group):
                        write_group(url, group, plan.owner)
                    rejected = json.loads(report.classes_without_accepted)
                    job.monitor.take(report.shard, {int(label): reason for label, reason in rejected.items()})
                    job.monitor.check()
    except BaseException as error:
        # Remove the plan of a dataset without shards to allow other settings in this folder. After an interruption,
        # however, a cluster's actors may still commit a shard, which needs the plan.
        ended = not generating or isinstance(error, UserError) or cluster_address() is None
        if job.new and ended and not committed(url, owner=plan.owner):
            storage.remove(storage.join(url, PLAN_NAME))
        raise
    seconds, busy = round(time.monotonic() - began, 3), status.busy["generate"]
    if job.shards is None:
        write_missing_groups(url, plan.shards(), plan.owner)
        index_set(url, plan.owner)
    shared = status.model_dump(include={"rate", "computed", "cold_start", "downloaded"})
    return Work(images=status.fresh, seconds=seconds, busy=busy, **shared)
