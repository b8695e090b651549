"""How a synthesis is doing: the sum of its shards' reports, as the progress line, `status.json` and Prometheus show it.

The file is no part of the set: nothing reads it to decide what to generate.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from typing import Any, NamedTuple

from pydantic import Field, PrivateAttr

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import as_ascii, counted, duration, percent
from syncclip.storage.status_file import JobStatus

STATUS_NAME = "status.json"
STAGES = ("generate", "filter", "encode", "write")
"""What an actor does with a shard, in this order."""


COMPUTED = "computed"
"""Beside the stages: what the device did of the time that generating took."""


class Report(NamedTuple):
    """What comes back for a shard: a small row of numbers, or an error."""

    shard: int
    images: int = 0
    rejects: str = "{}"  # JSON; Ray Data wants columns of one type
    generate: float = 0.0  # seconds of each stage
    filter: float = 0.0
    encode: float = 0.0
    write: float = 0.0
    computed: float = 0.0  # of `generate`, what the device did; see `Generator`
    started: float = 0.0  # seconds since the epoch
    ended: float = 0.0
    worker: str = ""  # machine and process that generated it
    deaths: int = 0  # how many processes died of it before
    error: str = ""
    classes_without_accepted: str = "{}"  # JSON, class id -> main reason
    fatal: bool = False  # trying again can't help
    trace: str = ""

    @property
    def rejected_classes(self) -> dict[int, str]:
        """Class id -> main reason, of the classes of which the filters accepted no image."""
        return {int(label): reason for label, reason in json.loads(self.classes_without_accepted).items()}


class SynthesisStatus(JobStatus):
    """How far a synthesis is and where its time goes; what `status.json` holds."""

    images: int
    """Images that are committed, those of earlier runs among them."""
    planned: int
    rate: float = 0.0
    """Images per second of this run since its first actor began, without the start of Ray and the loading of weights;
    0 before the first shard."""
    remaining: float | None = None
    """Seconds left at this rate."""
    busy: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Stage -> share of the actors' time. Stages overlap, so the sum may be above 1."""
    computed: float = 0.0
    """Share of the actors' time in which the device computed images. Far below `busy["generate"]`, others use the
    processors."""
    rejects: dict[str, int] = Field(default_factory=dict)
    """Reason -> images of this run that were generated and not taken, most first."""
    actors: int = 0
    """Actors that generate now: those that sent the newest reports, two for each that there may be."""
    failed: int = 0
    """Shards that came back as an error; most are generated again."""
    restarts: int = 0
    """Shards started again since the process that generated them had died."""

    most: int = Field(1, exclude=True)
    """Actors that generate at the same time, at most."""
    fresh: int = Field(0, exclude=True)
    """Images that this run committed."""
    elapsed: float = Field(0.0, exclude=True)
    """Seconds since the first actor began."""
    _seconds: dict[str, float] = PrivateAttr(default_factory=lambda: dict.fromkeys((*STAGES, COMPUTED), 0.0))
    _first: dict[str, float] = PrivateAttr(default_factory=dict)
    """Process -> when it began its first shard."""
    _recent: tuple[str, ...] = PrivateAttr(())
    """The processes that sent the newest reports."""

    def count(self, report: Report, images: int) -> None:
        """Add the report of a shard of `images` planned images."""
        self._first[report.worker] = min(report.started, self._first.get(report.worker, report.started))
        self._recent = (*self._recent, report.worker)[-2 * self.most :]
        begun = min(self._first.values())
        self.elapsed = max(self.elapsed, report.ended - begun)
        for stage in self._seconds:
            self._seconds[stage] += getattr(report, stage)
        if report.error:
            self.failed += 1
        else:
            self.images += images
            self.fresh += images
            self.rejects = dict((Counter(self.rejects) + Counter(json.loads(report.rejects))).most_common())
        self.restarts += report.deaths
        self.actors = len(set(self._recent))
        rate = self.fresh / self.elapsed if self.elapsed > 0 else 0.0
        self.rate = round(rate, 4)
        self.remaining = round((self.planned - self.images) / rate, 1) if rate else None
        # Each process counts since its first shard; together, never more than all actors could have had.
        whole = min(self.most * self.elapsed, sum(begun + self.elapsed - first for first in self._first.values()))
        shares = {one: round(min(1.0, spent / whole), 4) if whole else 0.0 for one, spent in self._seconds.items()}
        self.computed = shares.pop(COMPUTED)
        self.busy = shares

    def facts(self) -> dict[str, str]:
        """What the progress line shows beside the images: the stages' shares and the rejects by reason."""
        shares = {**self.busy, **({COMPUTED: self.computed} if self.computed else {})}
        found = {"busy": ", ".join(f"{stage} {percent(share)}" for stage, share in shares.items())}
        if self.rejects:
            found["rejected"] = ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.items())
        return found

    def lines(self) -> list[str]:
        """The status for people."""
        done = f"{self.images:,} of {counted(self.planned, 'image')}"
        lines = [f"{self.state}: {done}" + (f" · {self.rate:.3g} images/s" if self.rate else "")]
        lines += self.why()
        if self.state == "running" and self.remaining is not None:
            lines.append(f"left: {duration(self.remaining)} with {counted(self.actors, 'actor')}")
        lines += [f"{name}: {text}" for name, text in self.facts().items() if text]
        if self.failed or self.restarts:
            lines.append(f"failed shards: {self.failed:,}, started again after a dead process: {self.restarts:,}")
        return [*lines, self.last_sign_of_life("synth")]


def read_status(url: str, owner: str | None = None) -> SynthesisStatus | None:
    """The status of the set at `url`; None where there is none.

    Args:
        owner: identity of its plan, see `storage.seals`.

    Raises:
        UserError: another version wrote it.
    """
    return storage.read_document(
        storage.join(url, STATUS_NAME), SynthesisStatus, "use the version that wrote it", owner
    )


def mark_complete(url: str, images: int, planned: int, owner: str) -> None:
    """Mark a set complete whose driver died between its last shard and its last status."""
    with contextlib.suppress(UserError, OSError):
        status = read_status(url, owner)
        if status is not None and status.state != "complete":
            ended: dict[str, Any] = {"state": "complete", "reason": "", "images": images, "planned": planned}
            update = {**ended, "remaining": 0.0, "seen": round(time.time(), 3)}
            storage.write_document(storage.join(url, STATUS_NAME), status.model_copy(update=update), owner)


SHARD_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bounds of the histogram of a shard's time."""

GAUGE_INTERVAL = 6.0
"""Seconds; Ray exports a gauge that was set since the last export, and forgets it after two, by default 20 s."""


class SynthesisMetrics:
    """Prometheus metrics of one set, served by Ray at each node's port with the prefix `ray_` and the URL as tag `set`.

    Ray accepts ASCII tags only: other characters are percent-encoded. They are counted in the
    driver, from the reports: a metric of an actor would vanish with its process.
    """

    def __init__(self, url: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._set = {"set": as_ascii(url)}
        tags = ("set",)
        self._images = Counter("syncclip_images", "Images that this run committed.", tags)
        self._shards = Counter(
            "syncclip_shards", "Shards that came back, by outcome: committed or failed.", (*tags, "outcome")
        )
        self._rejects = Counter(
            "syncclip_rejects", "Images that were generated and not taken, by reason.", (*tags, "reason")
        )
        self._stages = Counter(
            "syncclip_stage_seconds", "Seconds of work by stage, summed over actors.", (*tags, "stage")
        )
        self._restarts = Counter(
            "syncclip_restarts", "Shards started again since the process that generated them had died.", tags
        )
        self._seconds = Histogram(
            "syncclip_shard_seconds", "From the start of a shard to its commit.", list(SHARD_SECONDS), tags
        )
        self._planned = Gauge("syncclip_images_planned", "Images that the set will hold.", tags)
        self._done = Gauge("syncclip_images_done", "Images that are committed, earlier runs included.", tags)
        self._actors = Gauge("syncclip_actors", "Actors that generate now.", tags)

    def count(self, report: Report, images: int) -> None:
        """Add a shard's report; `images` are its planned images."""
        self._shards.inc(1, self._set | {"outcome": "failed" if report.error else "committed"})
        for stage in (*STAGES, COMPUTED):
            if spent := getattr(report, stage):
                self._stages.inc(spent, self._set | {"stage": stage})
        if report.deaths:
            self._restarts.inc(report.deaths, self._set)
        if not report.error:
            self._images.inc(images, self._set)
            self._seconds.observe(max(0.0, report.ended - report.started), self._set)
            for reason, count in json.loads(report.rejects).items():
                self._rejects.inc(count, self._set | {"reason": as_ascii(reason)})

    def set_gauges(self, status: SynthesisStatus) -> None:
        """Set the gauges to what the status says; see `GAUGE_INTERVAL`."""
        self._planned.set(status.planned, self._set)
        self._done.set(status.images, self._set)
        self._actors.set(status.actors, self._set)
