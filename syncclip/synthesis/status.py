"""Progress of a synthesis run, aggregated from shard reports for the status file, progress line and Prometheus."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field, PrivateAttr

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import as_ascii, counted, duration, percent, size
from syncclip.storage.status_file import SILENCE, JobStatus
from syncclip.synthesis.budget import BudgetError
from syncclip.synthesis.plan import read_plan
from syncclip.workers.report import Report
from syncclip.workers.settings import ONE_ACTOR, Pool

STATUS_NAME = "status.json"
PART_STATUS = re.compile(r"status-([0-9]{5,})-([0-9]{5,})\.json")
REMEDY = "use the version that wrote it"
STAGES = ("generate", "filter", "encode", "write")
COMPUTED = "computed"
"""Name of the part of the `generate` stage during which the device was busy."""


class SynthesisStatus(JobStatus):
    """Progress, throughput and time per stage of a synthesis run, as stored in `status.json`."""

    images: int
    """Number of committed images, including images from earlier runs."""
    planned: int
    rate: float = 0.0
    """Throughput of this run in images per second since the first actor began its first shard."""
    remaining: float | None = None
    """Estimated remaining seconds at this throughput."""
    busy: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Share of the actors' time by stage. Stages overlap, so the sum may exceed 1."""
    computed: float = 0.0
    """Share of the actors' time during which the device was busy; far below `busy["generate"]` if other processes use
    the device."""
    rejects: dict[str, int] = Field(default_factory=dict)
    """Number of images rejected in this run, keyed by reason, with the most frequent reason first."""
    actors: int = 0
    """Number of distinct actors that sent the last `2 * most` reports."""
    failed: int = 0
    """Number of shard attempts that returned an error."""
    restarts: int = 0
    """Number of shard attempts whose process died."""
    cold_start: float = 0.0
    """Maximum time in seconds from an actor's start until its models were loaded."""
    downloaded: int = 0
    """Size in bytes of the model weights that actors downloaded from storage in this run."""
    hours: float = 0.0
    """GPU-hours or, without GPUs, actor-hours billed for the dataset, including earlier runs. An actor is billed from
    the start of its process, before it loads the weights, to its last heartbeat. A job that generates only some shards
    includes its own runs only."""
    committed: float = 0.0
    """Hours of the shards that other jobs had committed before the first run of a job that generates only some
    shards."""
    price: float | None = None
    """Price per hour in `currency`."""
    currency: str = "USD"
    budget: float | None = None
    """Maximum cost in `currency`."""

    most: int = Field(1, exclude=True)
    """Maximum number of concurrent actors."""
    fresh: int = Field(0, exclude=True)
    """Number of images committed by this run."""
    elapsed: float = Field(0.0, exclude=True)
    """Seconds from the start of the first shard to the end of the last shard."""
    pool: Pool = Field(ONE_ACTOR, exclude=True)
    _seconds: dict[str, float] = PrivateAttr(default_factory=lambda: dict.fromkeys((*STAGES, COMPUTED), 0.0))
    _first: dict[str, float] = PrivateAttr(default_factory=dict)
    """Start time of each process's first shard."""
    _recent: tuple[str, ...] = PrivateAttr(())
    """Processes that sent the most recent reports."""

    def count(self, report: Report, images: int) -> None:
        """Add a shard's report; `images` is the shard's planned number of images."""
        self._first[report.worker] = min(report.started, self._first.get(report.worker, report.started))
        self._recent = (*self._recent, report.worker)[-2 * self.most :]
        first = min(self._first.values())
        self.elapsed = max(self.elapsed, report.ended - first)
        for stage in self._seconds:
            self._seconds[stage] += getattr(report, stage)
        if report.error:
            self.failed += 1
        else:
            self.images += images
            self.fresh += images
            self.rejects = dict((Counter(self.rejects) + Counter(json.loads(report.rejects))).most_common())
        self.restarts += report.deaths
        self.cold_start = max(self.cold_start, round(report.cold_start, 1))
        self.downloaded += report.downloaded
        self.hours += self.pool.billed_hours(report.billed)
        self.actors = len(set(self._recent))
        rate = self.fresh / self.elapsed if self.elapsed > 0 else 0.0
        self.rate = round(rate, 4)
        self.remaining = round((self.planned - self.images) / rate, 1) if rate else None
        # Available time, summed over processes since their first shards, but at most the time of `most` actors.
        total = min(self.most * self.elapsed, sum(first + self.elapsed - start for start in self._first.values()))
        shares = {name: round(min(1.0, spent / total), 4) if total else 0.0 for name, spent in self._seconds.items()}
        self.computed = shares.pop(COMPUTED)
        self.busy = shares

    def facts(self) -> dict[str, str]:
        """Return the utilisation by stage and the rejected images by reason, for the progress line."""
        shares = {**self.busy, **({"device": self.computed} if self.computed else {})}
        facts = {"busy": ", ".join(f"{stage} {percent(share)}" for stage, share in shares.items())}
        if self.rejects:
            facts["rejected"] = ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.items())
        if self.price is not None:
            limit = "" if self.budget is None else f" of {self.budget:,.2f}"
            facts["cost"] = f"{self.cost:,.2f}{limit} {self.currency}"
        return facts

    @property
    def cost(self) -> float:
        """Cost of the dataset in `currency`, at the current price; 0 without a price."""
        return self.hours * (self.price or 0.0)

    def end(self, error: BaseException | None) -> None:
        super().end(error)
        if isinstance(error, BudgetError):
            self.state = "ended"

    def lines(self) -> list[str]:
        """Return the status as lines of text."""
        done = f"{self.images:,} of {counted(self.planned, 'image')}"
        lines = [f"{self.state}: {done}" + (f" · {self.rate:.3g} images/s" if self.rate else "")]
        lines += self.why()
        if self.state == "running" and self.remaining is not None:
            lines.append(f"left: {duration(self.remaining)} with {counted(self.actors, 'actor')}")
        lines += [f"{name}: {text}" for name, text in self.facts().items() if text]
        if self.cold_start:
            lines.append(f"cold start: at most {duration(self.cold_start)}, {size(self.downloaded)} downloaded")
        if self.failed or self.restarts:
            lines.append(f"failed shards: {self.failed:,}, shards restarted after a process died: {self.restarts:,}")
        return [*lines, self.last_heartbeat("synth")]


def status_name(shards: range | None) -> str:
    """Return the name of a job's status file."""
    return STATUS_NAME if shards is None else f"status-{storage.range_name(shards)}.json"


def read_status(url: str, owner: str | None = None, name: str = "") -> SynthesisStatus | None:
    """Return the status in the file `name`, or the total of all jobs that generate the synthetic dataset at `url`.

    Returns None without a status, and raises a UserError if this version can't read it.
    """
    names = [name] if name else [STATUS_NAME, *part_names(url)]
    files = {each: storage.read_document(storage.join(url, each), SynthesisStatus, REMEDY, owner) for each in names}
    earlier = files.pop(names[0])
    jobs = {each: status for each, status in files.items() if status is not None}
    if not jobs:
        return earlier
    plan = read_plan(url)
    return _total(jobs, earlier, sum(job.planned for job in jobs.values()) if plan is None else plan.total)


def _total(jobs: Mapping[str, SynthesisStatus], earlier: SynthesisStatus | None, planned: int) -> SynthesisStatus:
    """Return the total status of jobs that generate parts of a dataset, keyed by file name.

    Args:
        earlier: status of an earlier job that generated the whole dataset, if any.
        planned: number of images of the dataset.
    """
    now, every = time.time(), [*jobs.values()]
    lost = {name: job for name, job in jobs.items() if job.state == "running" and now - job.seen > SILENCE}
    running = [job for name, job in jobs.items() if job.state == "running" and name not in lost]
    ended = ["interrupted" if name in lost else job.state for name, job in jobs.items()]
    state = "running" if running else min(ended, key=("failed", "interrupted", "ended", "complete").index)
    reasons = [f"no heartbeat from the job of {name} for {duration(now - job.seen)}" for name, job in lost.items()]
    reasons += dict.fromkeys(job.reason for job in every if job.reason)
    images = max(sum(job.images for job in every), 0 if earlier is None else earlier.images)
    if state == "complete" and images < planned:
        state, reasons = "interrupted", ["no job generates the other shards"]
    rate = sum(job.rate for job in running)
    budgets = [job.budget for job in every if job.budget is not None]
    sums: dict[str, Any] = {
        key: sum(getattr(job, key) for job in every) for key in ("failed", "restarts", "downloaded", "hours")
    }
    return every[0].model_copy(
        update=sums
        | {
            "state": state,
            "reason": "; ".join(reasons),
            "images": images,
            "planned": planned,
            "rate": round(rate, 4),
            "actors": sum(job.actors for job in running),
            "began": min(job.began for job in every),
            "seen": max(job.seen for job in every),
            "remaining": round((planned - images) / rate, 1) if rate else None,
            "busy": {stage: sum(job.busy[stage] for job in every) / len(every) for stage in STAGES},
            "computed": sum(job.computed for job in every) / len(every),
            "rejects": dict(sum((Counter(job.rejects) for job in every), Counter[str]()).most_common()),
            "cold_start": max(job.cold_start for job in every),
            "hours": sums["hours"] + (0.0 if earlier is None else earlier.hours),
            "budget": sum(budgets) if len(budgets) == len(every) else None,
        }
    )


def overlapping_parts(url: str, shards: range) -> list[str]:
    """Return the names of the status files of other jobs that generated any of these shards."""
    names = []
    for name in part_names(url):
        match = PART_STATUS.fullmatch(name)
        assert match is not None
        first, end = int(match[1]), int(match[2])
        if first < shards.stop and shards.start < end and (first, end) != (shards.start, shards.stop):
            names.append(name)
    return names


def part_names(url: str) -> list[str]:
    """Return the names of the status files of jobs that generate only some shards."""
    return [name for name in storage.sizes(url, ["status"]) if PART_STATUS.fullmatch(name)]


def mark_complete(url: str, images: int, planned: int, owner: str) -> None:
    """Store the total status of a complete dataset, unless its driver has already done so."""
    with contextlib.suppress(UserError, OSError):
        status, parts = read_status(url, owner), part_names(url)
        if status is not None and (parts or status.state != "complete"):
            update: dict[str, Any] = {"state": "complete", "reason": "", "images": images, "planned": planned}
            update |= {"remaining": 0.0, "seen": round(time.time(), 3)}
            storage.write_document(storage.join(url, STATUS_NAME), status.model_copy(update=update), owner)
            for name in parts:
                storage.remove(storage.join(url, name))


SHARD_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bucket bounds of the shard duration histogram, in seconds."""

GAUGE_INTERVAL_SECONDS = 6.0
"""Seconds between gauge updates; Ray drops a gauge that is not set within two exports (20 s by default)."""

COUNTERS = {
    "images": ("Images committed by this run.", ()),
    "shards": ("Shards by outcome: committed or failed.", ("outcome",)),
    "rejects": ("Rejected images by reason.", ("reason",)),
    "stage_seconds": ("Seconds of work by stage, summed over actors.", ("stage",)),
    "restarts": ("Shards restarted after a process died.", ()),
}
"""Description and additional tags of each counter, by name; all counters have the `set` tag."""
GAUGES = {
    "images_planned": "Planned images.",
    "images_done": "Committed images, including images from earlier runs.",
    "actors": "Active actors.",
    "hours": "Billed GPU-hours or, without GPUs, actor-hours, including earlier runs.",
    "cost": "Cost including earlier runs, in the currency of the recipe; 0 without a price.",
    "images_per_second": "Throughput of this run since the first actor began its first shard, as in `syncclip status`.",
}


class SynthesisMetrics:
    """Prometheus metrics of a synthesis run, exported by Ray with the `ray_` prefix.

    The `set` tag contains the dataset's URL. Non-ASCII characters in tags are percent-encoded. The driver updates the
    metrics, since an actor's metrics would be lost with its process.
    """

    def __init__(self, url: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._tags = {"set": as_ascii(url)}
        self._counters = {
            name: Counter(f"syncclip_{name}", description, ("set", *tags))
            for name, (description, tags) in COUNTERS.items()
        }
        self._gauges = {name: Gauge(f"syncclip_{name}", text, ("set",)) for name, text in GAUGES.items()}
        description = "Duration of a shard from start to commit."
        self._seconds = Histogram("syncclip_shard_seconds", description, list(SHARD_SECONDS), ("set",))

    def count(self, report: Report, images: int) -> None:
        """Add a shard's report; `images` is the shard's planned number of images."""
        added: list[tuple[str, float, dict[str, str]]] = [
            ("shards", 1, {"outcome": "failed" if report.error else "committed"}),
            *(("stage_seconds", getattr(report, stage), {"stage": stage}) for stage in (*STAGES, COMPUTED)),
            ("restarts", report.deaths, {}),
        ]
        if not report.error:
            rejects = json.loads(report.rejects)
            added += [("images", images, {})]
            added += [("rejects", count, {"reason": as_ascii(reason)}) for reason, count in rejects.items()]
            self._seconds.observe(max(0.0, report.ended - report.started), self._tags)
        for name, value, tags in added:
            if value:
                self._counters[name].inc(value, self._tags | tags)

    def set_gauges(self, status: SynthesisStatus) -> None:
        """Set the gauges from the status; called every `GAUGE_INTERVAL_SECONDS` seconds."""
        values: dict[str, float] = {"images_planned": status.planned, "images_done": status.images}
        values |= {"actors": status.actors, "images_per_second": status.rate}
        values |= {"hours": status.hours, "cost": status.cost}
        for name, value in values.items():
            self._gauges[name].set(value, self._tags)
