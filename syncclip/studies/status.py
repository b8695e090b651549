"""How a study is doing, for whoever looks from elsewhere: `progress.json` in its folder.

The driver writes it, also while no cell ends, so its time is a sign of life. Nothing reads it to decide what to run.
"""

from __future__ import annotations

import time

from pydantic import Field, PrivateAttr

from syncclip import storage
from syncclip.core.text import counted, duration
from syncclip.storage.status_file import JobStatus

PROGRESS = "progress.json"
MOST = 10**12
"""Cells; no study has so many, and larger numbers are no floats."""
NAMED = 8
"""Cells that a line names before it only counts."""


class StudyStatus(JobStatus):
    """What `progress.json` holds. Times are seconds."""

    cells: int = Field(le=MOST)
    done: int = Field(ge=0, le=MOST)
    """Those of earlier calls among them."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Cell -> why."""
    running: list[str] = Field(default_factory=list)
    """Cells that were given to the cluster and have not come back."""
    slots: int = Field(1, le=MOST)
    """Cells that there was room for at the same time."""
    workers: int = 0
    """The most that there was room for in this call."""
    ended: int = Field(0, ge=0, le=MOST)
    """Cells of this call, failed ones among them."""
    seconds: float = 0.0
    """What they took, added up."""
    wall_seconds: float = 0.0
    """From the beginning to the end of the last one."""
    _start: float = PrivateAttr(default_factory=time.monotonic)
    """When this call began, by a clock that nobody sets."""

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

    def lines(self) -> list[str]:
        """The status for people."""
        counts = f"{self.done:,} done, {len(self.failed):,} failed, {len(self.running):,} running, "
        found = [f"{self.state}: {counts}{self.waiting:,} waiting, of {counted(self.cells, 'cell')}", *self.why()]
        found += [f"failed: {name}: {reason}" for name, reason in list(self.failed.items())[:NAMED]]
        if self.running and self.state == "running":
            more = f" and {len(self.running) - NAMED} more" if len(self.running) > NAMED else ""
            found.append(f"running: {', '.join(self.running[:NAMED])}{more}")
        if self.ended:
            found.append(f"a cell took {duration(self.seconds / self.ended)}, with {self.slots} at a time")
        if self.state == "running" and self.remaining is not None:
            found.append(f"left: {duration(self.remaining)}")
        return [*found, self.last_sign_of_life("study")]

    def give(self, cells: list[str], slots: int) -> None:
        """Record which cells the cluster has, and for how many it has room."""
        self.running, self.slots, self.workers = cells, slots, max(self.workers, slots)

    def take(self, cell: str, seconds: float, error: str | None) -> None:
        """Record that a cell came back."""
        if error:
            self.failed = {**self.failed, cell: error}
        else:
            self.done += 1
        self.running = [name for name in self.running if name != cell]
        self.ended += 1
        self.seconds = round(self.seconds + seconds, 3)
        self.wall_seconds = max(0.001, round(time.monotonic() - self._start, 3))

    def end(self, error: BaseException | None) -> None:
        """Record how the study ended; nothing runs any more."""
        super().end(error)
        self.running = []
        if error is None:  # cells may have failed
            self.state = "ended"


def read_study_status(url: str) -> StudyStatus | None:
    """The status of the study at `url`; None where there is none.

    Raises:
        UserError: another version wrote it.
    """
    return storage.read_document(storage.join(url, PROGRESS), StudyStatus, "use the version that wrote it")
