"""How a synthesis is doing, for whoever looks from elsewhere: `status.json` beside the shards.

The driver writes it, also while no shard comes back, so its time is a sign of life. It is no part of the set: nothing
reads it to decide what to draw, and a run goes on where it can't be written.

MERGED The state of a running synthesis, added up from the reports of its shards.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from syncclip import storage
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import counted, duration, percent
from syncclip.storage.status_file import SILENCE, LivingStatus
from syncclip.synthesis.worker import Report

STATUS_NAME = "status.json"


class Status(Settings):
    """What `status.json` holds."""

    state: Literal["running", "complete", "failed", "stopped"] = "running"
    reason: str = ""
    """Why it failed or stopped."""
    began: float
    """When this run began; seconds since the epoch, as `seen`."""
    seen: float
    """The last sign of life."""
    images: int
    """Images that are committed, those of earlier runs among them."""
    planned: int
    rate: float = 0.0
    """Images a second."""
    remaining: float | None = None
    """Seconds left at this rate."""
    busy: dict[str, float] = Field(default_factory=dict)
    """Stage -> share of the actors' time."""
    rejects: dict[str, int] = Field(default_factory=dict)
    """Reason -> images of this run that were drawn and not taken."""
    actors: int = 0
    """Actors that draw now."""
    failed: int = 0
    """Shards that came back as an error; most are drawn again."""
    restarts: int = 0
    """Shards begun again since the process that drew them had died."""

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life of a run that should give some; else 0."""
        return max(0.0, time.time() - self.seen) if self.state == "running" else 0.0

    def lines(self) -> list[str]:
        """The status for people."""
        done = f"{self.images:,} of {counted(self.planned, 'image')}"
        told = [f"{self.state}: {done}" + (f" · {self.rate:.3g} images/s" if self.rate else "")]
        if self.reason:
            told.append(f"why: {self.reason}")
        if self.state == "running" and self.remaining is not None:
            told.append(f"left: {duration(self.remaining)} with {counted(self.actors, 'actor')}")
        if self.busy:
            told.append("busy: " + ", ".join(f"{stage} {percent(share)}" for stage, share in self.busy.items()))
        if self.rejects:
            told.append("rejected: " + ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.items()))
        if self.failed or self.restarts:
            told.append(f"failed shards: {self.failed:,}, begun again after a dead process: {self.restarts:,}")
        told.append(f"last sign of life: {duration(time.time() - self.seen)} ago")
        if self.silence > SILENCE:
            told[-1] += "; the driver is gone or can't write here: the same `synth` command goes on from what is there"
        return told


class StatusFile(LivingStatus[Status]):
    """Keeps `status.json` of the set at `url` up to date while the `with` block runs; see `LivingStatus`."""

    def __init__(
        self, url: str, facts: Facts, interval: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        began = round(clock(), 3)
        super().__init__(storage.join(url, STATUS_NAME), _status(facts, began, began), interval, clock)

    def update(self, facts: Facts) -> None:
        """Take in the newest facts."""
        self.status = _status(facts, self.status.began, round(self.clock(), 3))

    def outcome(self, error: BaseException | None) -> dict[str, Any]:
        """Complete, stopped, or failed for a reason."""
        if error is None:
            return {"state": "complete"}
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return {"state": "stopped", "reason": "interrupted"}
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return {"state": "failed", "reason": name + " ".join(str(error).split())}


def read_status(url: str) -> Status | None:
    """The status of the set at `url`; None where there is none.

    Raises:
        UserError: another version wrote it.
    """
    return storage.read_document(storage.join(url, STATUS_NAME), Status, "use the version that wrote it")


def settle_status(url: str, images: int, planned: int) -> None:
    """Say that a set is complete where a driver died between its last shard and its last word."""
    with contextlib.suppress(UserError, OSError):
        status = read_status(url)
        if status is not None and status.state != "complete":
            ended = {"state": "complete", "reason": "", "images": images, "planned": planned, "remaining": 0.0}
            storage.write_document(
                storage.join(url, STATUS_NAME), status.model_copy(update={**ended, "seen": time.time()})
            )


def _status(facts: Facts, began: float, seen: float) -> Status:
    return Status(
        began=began,
        seen=seen,
        images=facts.images,
        planned=facts.total,
        rate=round(facts.rate, 4),
        remaining=None if facts.remaining is None else round(facts.remaining, 1),
        busy={stage: round(share, 4) for stage, share in facts.shares.items()},
        rejects=dict(facts.rejects.most_common()),
        actors=facts.actors,
        failed=facts.failed,
        restarts=facts.restarts,
    )


STAGES = ("generate", "judge", "encode", "write")
"""What an actor does with a shard, in this order."""


@dataclass
class Facts:
    """How far a synthesis is and where its time goes, for whoever watches it."""

    total: int
    """Images that the set will hold."""
    images: int
    """Images that are committed, those of earlier runs among them."""
    most: int
    """Actors that draw at the same time, at most."""
    fresh: int = 0
    """Images that this run committed."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Stage -> seconds of work, summed over actors."""
    elapsed: float = 0.0
    """Seconds since the first actor began."""
    rejects: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    """Shards that came back as an error; most are drawn again."""
    restarts: int = 0
    """How often a shard was begun again since the process that drew it had died."""
    _first: dict[str, float] = field(default_factory=dict)
    """Actor's process -> when it began its first shard."""
    _recent: deque[str] = field(default_factory=deque)

    @property
    def rate(self) -> float:
        """Images a second, 0 before the first shard."""
        return self.fresh / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds left at this rate."""
        return (self.total - self.images) / self.rate if self.rate > 0 else None

    @property
    def actors(self) -> int:
        """Actors that draw now: those that sent the newest reports, two for each that there may be."""
        return len(set(self._recent))

    @property
    def actor_seconds(self) -> float:
        """Time of the pool: of each process since its first shard, and never more than all actors could have had."""
        if not self._first:
            return 0.0
        end = min(self._first.values()) + self.elapsed
        return min(self.most * self.elapsed, sum(end - first for first in self._first.values()))

    @property
    def shares(self) -> dict[str, float]:
        """Stage -> share of the actors' time. Stages overlap, so the sum may be above 1."""
        whole = self.actor_seconds
        return {stage: min(1.0, spent / whole) if whole > 0 else 0.0 for stage, spent in self.seconds.items()}

    @property
    def busy(self) -> float:
        """Share of the actors' time that went into generators."""
        return self.shares["generate"]

    def count(self, report: Report, size: int) -> None:
        """Take in the report of a shard of `size` planned images."""
        self._first[report.worker] = min(report.started, self._first.get(report.worker, report.started))
        self._recent = deque([*self._recent, report.worker], maxlen=2 * self.most)
        self.elapsed = max(self.elapsed, report.ended - min(self._first.values()))
        for stage in STAGES:
            self.seconds[stage] += getattr(report, stage)
        self.restarts += report.deaths
        if report.error:
            self.failed += 1
        else:
            self.images += size
            self.fresh += size
            self.rejects.update(json.loads(report.rejects))

    def line(self) -> dict[str, str]:
        """Facts of the progress line: the stages' shares and the rejects by reason."""
        told = {"busy": ", ".join(f"{stage} {percent(share)}" for stage, share in self.shares.items())}
        if self.rejects:
            told["rejected"] = ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.most_common())
        return told
