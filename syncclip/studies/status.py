"""Progress of a study for `--status`; the driver regularly writes it to `progress.json` in the study's folder."""

from __future__ import annotations

import time

from pydantic import Field, PrivateAttr

from syncclip import storage
from syncclip.core.text import counted, duration
from syncclip.storage.status_file import JobStatus

PROGRESS = "progress.json"
MAX_COUNT = 10**12
"""Maximum value of a count in `progress.json`."""
MAX_NAMES = 8
"""Maximum number of runs that are listed by name."""


class StudyStatus(JobStatus):
    """Content of `progress.json`; times are in seconds."""

    cells: int = Field(le=MAX_COUNT)
    """Number of runs in the study."""
    done: int = Field(ge=0, le=MAX_COUNT)
    """Number of finished runs, including those from earlier calls."""
    failed: dict[str, str] = Field(default_factory=dict)
    """Errors of failed runs, keyed by run name."""
    running: list[str] = Field(default_factory=list)
    """Names of the runs submitted to the cluster."""
    slots: int = Field(1, le=MAX_COUNT)
    """Maximum number of concurrent runs."""
    workers: int = 0
    """Largest value of `slots` in this call."""
    ended: int = Field(0, ge=0, le=MAX_COUNT)
    """Number of runs that finished or failed in this call."""
    seconds: float = 0.0
    """Total duration of the runs that ended in this call."""
    wall_seconds: float = 0.0
    """Time from the start of this call until its last run ended."""
    _start: float = PrivateAttr(default_factory=time.monotonic)

    @property
    def waiting(self) -> int:
        """Number of runs that have not started."""
        return self.cells - self.done - len(self.failed) - len(self.running)

    @property
    def remaining(self) -> float | None:
        """Estimated remaining time in seconds at the current number of slots, or None before the first run ends."""
        if not self.ended:
            return None
        rounds = (self.waiting + len(self.running)) / max(1, self.slots)
        return rounds * self.seconds / self.ended

    def lines(self) -> list[str]:
        """Format the status as lines of text."""
        counts = f"{self.done:,} done, {len(self.failed):,} failed, {len(self.running):,} running, "
        lines = [f"{self.state}: {counts}{self.waiting:,} waiting, of {counted(self.cells, 'run')}", *self.why()]
        lines += [f"failed: {name}: {reason}" for name, reason in list(self.failed.items())[:MAX_NAMES]]
        if self.running and self.state == "running":
            more = f" and {len(self.running) - MAX_NAMES} more" if len(self.running) > MAX_NAMES else ""
            lines.append(f"running: {', '.join(self.running[:MAX_NAMES])}{more}")
        if self.ended:
            lines.append(f"mean time per run: {duration(self.seconds / self.ended)}, {self.slots} at a time")
        if self.state == "running" and self.remaining is not None:
            lines.append(f"left: {duration(self.remaining)}")
        return [*lines, self.last_heartbeat("study")]

    def give(self, cells: list[str], slots: int) -> None:
        """Record the runs in progress and the number of slots."""
        self.running, self.slots, self.workers = cells, slots, max(self.workers, slots)

    def take(self, cell: str, seconds: float, error: str | None) -> None:
        """Record the end of a run; `error` is None if the run succeeded."""
        if error:
            self.failed = {**self.failed, cell: error}
        else:
            self.done += 1
        self.running = [name for name in self.running if name != cell]
        self.ended += 1
        self.seconds = round(self.seconds + seconds, 3)
        self.wall_seconds = max(0.001, round(time.monotonic() - self._start, 3))

    def end(self, error: BaseException | None) -> None:
        """Record the end of the study."""
        super().end(error)
        self.running = []
        if error is None:  # even if runs have failed
            self.state = "ended"


def read_study_status(url: str) -> StudyStatus | None:
    """Read the status of the study at `url`; return None if it has no status file.

    Raises:
        UserError: the file was written by a different version of syncclip.
    """
    return storage.read_document(storage.join(url, PROGRESS), StudyStatus, "use the version that wrote it")
