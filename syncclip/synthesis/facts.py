"""The state of a running synthesis, added up from the reports of its shards."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass, field

from syncclip.synthesis.maker import Report

STAGES = ("generate", "judge", "encode", "write")
"""What an actor does with a shard, in this order."""


@dataclass
class Facts:
    """How far a synthesis is and where its time goes, for whoever watches it."""

    total: int
    """Pictures that the set will hold."""
    images: int
    """Pictures that are committed, those of earlier runs among them."""
    most: int
    """Actors that draw at the same time, at most."""
    fresh: int = 0
    """Pictures that this run committed."""
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
        """Pictures a second, 0 before the first shard."""
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
        """Take in the report of a shard of `size` planned pictures."""
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
        told = {"busy": ", ".join(f"{stage} {share:.0%}".replace("%", " %") for stage, share in self.shares.items())}
        if self.rejects:
            told["rejected"] = ", ".join(f"{reason} {count:,}" for reason, count in self.rejects.most_common())
        return told
