"""Progress of a study: `progress.json` in its folder, for `--status`.

The driver writes it at regular intervals, so its time is a heartbeat. It never decides what is run.
"""

from __future__ import annotations

import time

from pydantic import Field, PrivateAttr

from syncclip import storage
from syncclip.core.text import counted, duration
from syncclip.storage.status_file import JobStatus

PROGRESS = "progress.json"
MAX_COUNT = 10**12
"""Upper bound of counts in the file; larger integers are not exact floats."""
MAX_NAMES = 8
"""Trainings that a line names; the rest is counted."""


class StudyStatus(JobStatus):
    """Content of `progress.json`; times are seconds."""

    cells: int = Field(le=MAX_COUNT)
    """Trainings of the study."""
    done: int = Field(ge=0, le=MAX_COUNT)
    """Finished trainings, including those of earlier calls."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Failed training -> reason."""
    running: list[str] = Field(default_factory=list)
    """Trainings submitted to the cluster."""
    slots: int = Field(1, le=MAX_COUNT)
    """Trainings that may run at a time."""
    workers: int = 0
    """Largest number of slots in this call."""
    ended: int = Field(0, ge=0, le=MAX_COUNT)
    """Trainings that ended in this call, failed ones included."""
    seconds: float = 0.0
    """Total time of the ended trainings."""
    wall_seconds: float = 0.0
    """From the start of this call to the end of the last training."""
    _start: float = PrivateAttr(default_factory=time.monotonic)

    @property
    def waiting(self) -> int:
        """Trainings that have not started."""
        return self.cells - self.done - len(self.failed) - len(self.running)

    @property
    def remaining(self) -> float | None:
        """Estimated seconds left at the current pace and number of slots; None before the first training has ended."""
        if not self.ended:
            return None
        rounds = (self.waiting + len(self.running)) / max(1, self.slots)
        return rounds * self.seconds / self.ended

    def lines(self) -> list[str]:
        """The status as lines of text."""
        counts = f"{self.done:,} done, {len(self.failed):,} failed, {len(self.running):,} running, "
        lines = [f"{self.state}: {counts}{self.waiting:,} waiting, of {counted(self.cells, 'training')}", *self.why()]
        lines += [f"failed: {name}: {reason}" for name, reason in list(self.failed.items())[:MAX_NAMES]]
        if self.running and self.state == "running":
            more = f" and {len(self.running) - MAX_NAMES} more" if len(self.running) > MAX_NAMES else ""
            lines.append(f"running: {', '.join(self.running[:MAX_NAMES])}{more}")
        if self.ended:
            lines.append(f"mean time of a training: {duration(self.seconds / self.ended)}, {self.slots} at a time")
        if self.state == "running" and self.remaining is not None:
            lines.append(f"left: {duration(self.remaining)}")
        return [*lines, self.last_sign_of_life("study")]

    def give(self, cells: list[str], slots: int) -> None:
        """Record the submitted trainings and the number of slots."""
        self.running, self.slots, self.workers = cells, slots, max(self.workers, slots)

    def take(self, cell: str, seconds: float, error: str | None) -> None:
        """Record that a training ended."""
        if error:
            self.failed = {**self.failed, cell: error}
        else:
            self.done += 1
        self.running = [name for name in self.running if name != cell]
        self.ended += 1
        self.seconds = round(self.seconds + seconds, 3)
        self.wall_seconds = max(0.001, round(time.monotonic() - self._start, 3))

    def end(self, error: BaseException | None) -> None:
        """Record how the study ended."""
        super().end(error)
        self.running = []
        if error is None:  # trainings may have failed
            self.state = "ended"


def read_study_status(url: str) -> StudyStatus | None:
    """Status of the study at `url`; None if it has none.

    Raises:
        UserError: another version of syncclip wrote it.
    """
    return storage.read_document(storage.join(url, PROGRESS), StudyStatus, "use the version that wrote it")
