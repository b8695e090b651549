"""How a synthesis is doing, for whoever looks from elsewhere: `status.json` beside the shards.

The driver writes it, also while no shard comes back, so its time is a sign of life. It is no part of the set: nothing
reads it to decide what to draw, and a run goes on where it can't be written.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from syncclip import storage
from syncclip.counting import counted
from syncclip.settings import Settings, UserError
from syncclip.synthesis.facts import Facts
from syncclip.synthesis.living_status import SILENCE, LivingStatus

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
    """Pictures that are committed, those of earlier runs among them."""
    planned: int
    rate: float = 0.0
    """Pictures a second."""
    remaining: float | None = None
    """Seconds left at this rate."""
    busy: dict[str, float] = Field(default_factory=dict)
    """Stage -> share of the actors' time."""
    rejects: dict[str, int] = Field(default_factory=dict)
    """Reason -> pictures of this run that were drawn and not taken."""
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
            told.append(
                "busy: " + ", ".join(f"{stage} {share:.0%}".replace("%", " %") for stage, share in self.busy.items())
            )
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


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 20 min`, `2 d 5 h`."""
    minutes, hours, days = (round(seconds) // size for size in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{max(0, round(seconds))} s"


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
