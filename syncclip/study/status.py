"""How a study is doing, for whoever looks from elsewhere: `progress.json` in its folder.

The driver writes it, also while no cell ends, so its time is a sign of life. Nothing reads it to decide what to run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from pydantic import Field

from syncclip import storage
from syncclip.settings import Settings
from syncclip.synthesis.heartbeat import Heartbeat
from syncclip.synthesis.status import INTERVAL, REMOTE_INTERVAL, SILENCE, duration

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
        told = [f"{self.state}: {counts}{self.waiting:,} waiting, of {self.cells:,} cells"]
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


class StudyStatusFile:
    """Keeps `progress.json` of the study at `url` up to date while the `with` block runs.

    After a crash of the process the file says "running", and its last sign of life grows old.

    Args:
        cells: of the study.
        done: those that are done already.
        clock: seconds since the epoch; tests pass their own.
    """

    def __init__(self, url: str, cells: int, done: int, clock: Callable[[], float] = time.time) -> None:
        self._place, self._clock = storage.join(url, PROGRESS), clock
        now = round(clock(), 3)
        self._status = StudyStatus(began=now, seen=now, cells=cells, done=done)
        self._heart = Heartbeat(self._write, INTERVAL if storage.is_local(url) else REMOTE_INTERVAL)

    def running(self, cells: list[str], slots: int) -> None:
        """Take in which cells the cluster has; the file follows within its interval."""
        self._status = self._status.model_copy(update={"running": cells, "slots": slots})

    def ended(self, cell: str, seconds: float, error: str | None) -> None:
        """Take in that a cell came back."""
        s = self._status
        came = {"failed": {**s.failed, cell: error}} if error else {"done": s.done + 1}
        rest = [name for name in s.running if name != cell]
        self._status = s.model_copy(
            update={**came, "running": rest, "ended": s.ended + 1, "seconds": round(s.seconds + seconds, 3)}
        )

    def __enter__(self) -> StudyStatusFile:
        self._write()
        self._heart.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._heart.__exit__(kind, error, traceback)
        self._status = self._status.model_copy(update={"state": "ended" if error is None else "stopped", "running": []})
        self._write()

    def _write(self) -> None:
        status = self._status.model_copy(update={"seen": round(self._clock(), 3)})
        with contextlib.suppress(Exception):  # what matters is the study
            storage.write_document(self._place, status)


def read_study_status(url: str) -> StudyStatus | None:
    """The status of the study at `url`; None where there is none.

    Raises:
        UserError: another version wrote it.
    """
    return storage.read_document(storage.join(url, PROGRESS), StudyStatus, "use the version that wrote it")
