"""How a study is doing, for whoever looks from elsewhere: `progress.json` in its folder.

The driver writes it, also while no cell ends, so its time is a sign of life. Nothing reads it to decide what to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from syncclip import storage
from syncclip.core.settings import Settings
from syncclip.core.text import counted, duration
from syncclip.storage.status_file import SILENCE, LivingStatus

PROGRESS = "progress.json"
NAMED = 8
"""Cells that a line names before it only counts."""


class StudyStatus(Settings):
    """What `progress.json` holds. Times are seconds."""

    state: Literal["running", "ended", "stopped"] = "running"
    began: float
    """When this call began; since the epoch, as `seen`."""
    seen: float
    """The last sign of life."""
    cells: int
    done: int
    """Those of earlier calls among them."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Cell -> why."""
    running: list[str] = Field(default_factory=list)
    """Cells that were given to the cluster and have not come back."""
    slots: int = 1
    """Cells that there was room for at the same time."""
    ended: int = 0
    """Cells of this call, failed ones among them."""
    seconds: float = 0.0
    """What they took, added up."""

    @property
    def waiting(self) -> int:
        """Cells that nobody has begun."""
        return self.cells - self.done - len(self.failed) - len(self.running)

    @property
    def remaining(self) -> float | None:
        """Seconds left, if cells go on to take what they took and there is room for as many; None before the first."""
        if not self.ended:
            return None
        rounds = (self.waiting + len(self.running)) / max(1, self.slots)
        return rounds * self.seconds / self.ended

    def lines(self, now: float) -> list[str]:
        """The status for people, at `now`."""
        counts = f"{self.done:,} done, {len(self.failed):,} failed, {len(self.running):,} running, "
        told = [f"{self.state}: {counts}{self.waiting:,} waiting, of {counted(self.cells, 'cell')}"]
        told += [f"failed: {name}: {reason}" for name, reason in list(self.failed.items())[:NAMED]]
        if self.running and self.state == "running":
            more = f" and {len(self.running) - NAMED} more" if len(self.running) > NAMED else ""
            told.append(f"running: {', '.join(self.running[:NAMED])}{more}")
        if self.ended:
            told.append(f"a cell took {duration(self.seconds / self.ended)}, with {self.slots} at a time")
        if self.state == "running" and self.remaining is not None:
            told.append(f"left: {duration(self.remaining)}")
        told.append(f"last sign of life: {duration(now - self.seen)} ago")
        if self.state == "running" and now - self.seen > SILENCE:
            told[-1] += "; the driver is gone or can't write here: the same `study` command goes on from what is there"
        return told


class StudyStatusFile(LivingStatus[StudyStatus]):
    """Keeps `progress.json` of the study at `url` up to date while the `with` block runs; see `LivingStatus`.

    Args:
        cells: of the study.
        done: those that are done already.
        clock: seconds since the epoch; tests pass their own.
    """

    def __init__(self, url: str, cells: int, done: int, clock: Callable[[], float] = time.time) -> None:
        now = round(clock(), 3)
        begun = StudyStatus(began=now, seen=now, cells=cells, done=done)
        super().__init__(storage.join(url, PROGRESS), begun, clock=clock)

    def running(self, cells: list[str], slots: int) -> None:
        """Take in which cells the cluster has."""
        self.status = self.status.model_copy(update={"running": cells, "slots": slots})

    def ended(self, cell: str, seconds: float, error: str | None) -> None:
        """Take in that a cell came back."""
        s = self.status
        came = {"failed": {**s.failed, cell: error}} if error else {"done": s.done + 1}
        rest = [name for name in s.running if name != cell]
        self.status = s.model_copy(
            update={**came, "running": rest, "ended": s.ended + 1, "seconds": round(s.seconds + seconds, 3)}
        )

    def outcome(self, error: BaseException | None) -> dict[str, Any]:
        """Ended or stopped; nothing runs any more."""
        return {"state": "ended" if error is None else "stopped", "running": []}


def read_study_status(url: str) -> StudyStatus | None:
    """The status of the study at `url`; None where there is none.

    Raises:
        UserError: another version wrote it.
    """
    return storage.read_document(storage.join(url, PROGRESS), StudyStatus, "use the version that wrote it")
