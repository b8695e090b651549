"""The Ray Data graph: shard specs go in, small reports come out; all that matters happens inside a row.

Work to do = plan minus markers. One row is one shard, drawn by a pool of actors whose restarts are bounded; errors come
back as rows. Which actor draws a shard, in which order and how often changes no byte of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from syncclip import storage
from syncclip.core.progress import Progress
from syncclip.core.ray_session import capacity, cluster_address, local_cpus, ray_session
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.shards.layout import committed, markers, shard_name
from syncclip.storage.status_file import keep_status_file, repeating
from syncclip.synthesis.early_stop import Harvest
from syncclip.synthesis.filters import placed
from syncclip.synthesis.generators import locate
from syncclip.synthesis.plan import PLAN_NAME, Plan, read_plan, settle, settled
from syncclip.synthesis.pool import PoolError, draw_round
from syncclip.synthesis.prometheus import GAUGE_INTERVAL, SynthesisMetrics
from syncclip.synthesis.status import SynthesisStatus, mark_complete, status_url
from syncclip.synthesis.summary import SetSummary, Work, summarise
from syncclip.synthesis.tuning import tuned
from syncclip.synthesis.worker import Report, ShardMaker

logger = logging.getLogger(__name__)


def synthesise_set(
    plan: Plan,
    url: str,
    *,
    actors: int = 1,
    max_actors: int | None = None,
    num_gpus: float = 0.0,
    retries: int = 2,
    storage_options: Mapping[str, Any] | None = None,
    show: bool = True,
    observe: Callable[[SynthesisStatus], None] | None = None,
) -> SetSummary:
    """Draw what is missing of the set at `url`, and sum up what is there.

    Killed at any time, it loses the shards in flight; the same call again completes the set to the same bytes and
    draws no committed shard twice. Where all is there already, neither Ray nor the generator is touched.

    Args:
        plan: from `draft`. A set that exists grows to its amount; fewer images than exist are fine.
        url: folder or prefix of the set; one that every machine sees, where several draw.
        actors: processes that draw at the same time, `plan.threads` CPUs each.
        max_actors: to so many the pool grows while shards wait and the cluster has room; by default it doesn't.
        num_gpus: GPUs of each actor; 0 draws on the CPU.
        retries: further rounds for shards that failed; rounds that commit something don't count.
        storage_options: fsspec options that the actors need for `url`.
        show: whether to show progress on stderr.
        observe: is called with the status after each shard.

    Raises:
        UserError: the generator is missing, the folder holds another plan, can't be written, the machine lacks the
            CPUs or GPUs, or shards failed for good; what was committed stays.
    """
    url = str(storage.local_path(url).resolve()) if storage.is_local(url) else url  # actors may stand elsewhere
    wanted = plan.images_per_class
    begun_here = read_plan(url) is None
    plan = settled(plan, url)
    todo = _missing(plan, url, wanted)
    if not todo:
        done = summarise(plan, url)
        mark_complete(url, done.images, done.planned)
        return done
    located = locate(plan.generator, plan.weights)
    plan = plan.model_copy(update={"weights": located.fingerprint})
    check_machine(actors, plan.threads, num_gpus)
    if begun_here:
        plan = tuned(plan, located, num_gpus)
    plan = settle(plan, url)
    storage.sweep(url)
    sizes = {shard: len(plan.shard_range(shard)) for shard in plan.shards(wanted)}
    pool = actors, max(actors, max_actors or actors)
    whole = sum(sizes.values())
    status = SynthesisStatus.begin(whole, whole - sum(sizes[shard] for shard in todo), min(pool[1], len(todo)))
    device = "cuda" if num_gpus > 0 else "cpu"
    given = plan.model_copy(update={"generator": located.placed(plan.generator), "filters": placed(plan.filters)})
    maker = partial(ShardMaker, given.model_dump_json(), url, device, located.source, dict(storage_options or {}))
    began = time.monotonic()
    drawing = False
    try:
        harvest = Harvest(plan, markers(url))
        with (
            keep_status_file(status_url(url), status),
            ray_session(),
            _line(status, show) as line,
            ExitStack() as stack,
        ):
            metrics = SynthesisMetrics(url)
            stack.enter_context(repeating(lambda: metrics.set_gauges(status), GAUGE_INTERVAL))
            _check_cluster(actors, plan.threads, num_gpus)

            def take(report: Report) -> None:
                status.count(report, sizes[report.shard])
                metrics.count(report, sizes[report.shard])
                if line is not None:
                    line.update(0 if report.error else sizes[report.shard], **status.facts())
                if observe is not None:
                    observe(status)
                if not report.error:
                    harvest.take(report.shard, report.barren)

            def draw(shards: Sequence[int]) -> Iterator[Report]:
                return draw_round(shards, maker, actors=pool, threads=plan.threads, num_gpus=num_gpus)

            drawing = True
            _rounds(plan, url, todo, wanted, retries, draw, take)
    except BaseException as error:
        # What wasn't begun binds the folder to no settings. But where drawing on a cluster was interrupted, or the
        # cluster broke, actors may still be at a shard: without the plan, what they commit would be of no use.
        over = not drawing or isinstance(error, UserError) or cluster_address() is None
        if begun_here and over and not committed(url):
            storage.remove(storage.join(url, PLAN_NAME))
        raise
    work = Work(images=status.fresh, seconds=round(time.monotonic() - began, 3), busy=status.busy["generate"])
    return summarise(plan, url, work)


def _rounds(
    plan: Plan,
    url: str,
    todo: list[int],
    wanted: int,
    retries: int,
    draw: Callable[[Sequence[int]], Iterator[Report]],
    take: Callable[[Report], None],
) -> None:
    """Draw `todo`, then what is still without a marker, until nothing is or `retries` rounds brought nothing."""
    fruitless, again = 0, False
    while todo:
        failed: dict[int, Report] = {}
        crash = ""
        try:
            for report in draw(todo):
                take(report)
                if report.error:
                    failed[report.shard] = report
                    logger.debug("shard %s: %s", shard_name(report.shard), report.trace)
                if report.fatal:
                    break
        except PoolError as error:
            crash = "the processes that drew it kept dying (out of memory, or killed)"
            logger.debug("the pool of actors ended: %s", error)
        left = _missing(plan, url, wanted)
        fruitless += again and len(left) == len(todo)
        fatal = next((report for report in failed.values() if report.fatal), None)
        if left and (fatal or fruitless >= retries):
            worst = fatal or next((failed[shard] for shard in left if shard in failed), None)
            shard = worst.shard if worst else left[0]
            cause = worst.error if worst else crash or "it was reported as drawn, but its marker isn't there"
            there = len(plan.shards(wanted)) - len(left)
            raise UserError(
                f"shard {shard_name(shard)} could not be drawn: {cause}; {there} of {len(plan.shards(wanted))} shards "
                f"are committed in {url} and stay, and the same command goes on from there"
            )
        # What failed goes last. Who died left no row: turn the order round, so that a deadly shard can't starve others.
        todo = sorted(left, key=lambda shard: (shard in failed, -shard if crash and not again else shard))
        again = True


def _missing(plan: Plan, url: str, wanted: int) -> list[int]:
    there = {stats.shard for stats in markers(url)}
    return [shard for shard in plan.shards(wanted) if shard not in there]


@contextmanager
def _line(status: SynthesisStatus, show: bool) -> Iterator[Progress | None]:
    with Progress(status.planned, "images", "synth", done=status.images) if show else nullcontext() as line:
        yield line


def check_machine(actors: int, threads: int, num_gpus: float) -> None:
    """Refuse what this machine can't do before Ray starts; a cluster may still grow.

    Raises:
        UserError: it has too few CPUs, or no GPU.
    """
    import ray

    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
        _refuse(actors, threads, local_cpus())
        if num_gpus > 0:
            import torch

            if not torch.cuda.is_available():
                raise UserError(f"synthesis.num_gpus is {num_gpus:g}, but this machine has no GPU; set it to 0")


def _check_cluster(actors: int, threads: int, num_gpus: float) -> None:
    """Refuse what the cluster neither has nor may grow to; of a cluster that was named, one actor must find room."""
    there = capacity()
    named = bool(os.environ.get("RAY_ADDRESS"))
    if there["CPU"] < (1 if named else actors) * threads:
        _refuse(1 if named else actors, threads, int(there["CPU"]))
    if num_gpus > there["GPU"]:
        raise UserError(
            f"synthesis.num_gpus is {num_gpus:g}, but the cluster has {there['GPU']:g} GPUs and {there['CPU']:g} CPUs; "
            "set it to 0, or add machines with GPUs"
        )


def _refuse(actors: int, threads: int, cpus: int) -> None:
    if actors * threads > cpus:
        each = f" of {threads} threads" if threads > 1 else ""
        raise UserError(
            f"synthesis.actors: {counted(actors, 'actor')}{each} would need {counted(actors * threads, 'CPU')}, but "
            f"there are {cpus}; use at most {max(1, cpus // threads)}, or name a cluster in RAY_ADDRESS"
        )
