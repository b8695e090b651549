"""How a training is doing, for whoever looks from elsewhere: `training.json` in the run's folder.

The driver writes it, also while no step ends, so its time is a sign of life. Nothing reads it to decide what to run.
"""

from __future__ import annotations

import time

from pydantic import PrivateAttr

from syncclip import storage
from syncclip.core.text import counted, duration
from syncclip.storage.status_file import JobStatus
from syncclip.training.run_folder import RunFolder

STATUS = "training.json"


class TrainingStatus(JobStatus):
    """What `training.json` holds. Times are seconds."""

    steps: int = 0
    total_steps: int = 0
    rate: float = 0.0
    """Steps a second of this call."""
    loss: float | None = None
    """The total of the newest line of metrics."""
    waits: str = ""
    """Why no worker runs, where the cluster has no room for them."""

    _first: tuple[int, float] | None = PrivateAttr(None)
    """The steps of the first line that this call saw, and when that was."""

    def count(self, steps: int, total_steps: int, loss: float) -> None:
        """Record the newest line of metrics."""
        self.steps, self.total_steps, self.loss = steps, total_steps, loss
        now = time.monotonic()
        before, since = self._first = self._first or (steps, now)
        if steps > before:
            self.rate = round((steps - before) / (now - since), 4)

    def lines(self) -> list[str]:
        """The status for people, while the training runs or after its driver was lost."""
        done = f"{self.state}: {self.steps:,} of {counted(self.total_steps, 'step')}"
        if not self.steps:
            done = f"{self.state}: no step made yet"
        if self.rate:
            done += f" · {self.rate:.3g} steps/s · {duration((self.total_steps - self.steps) / self.rate)} left"
        lines = [done, *self.why()]
        if self.loss is not None:
            lines.append(f"loss: {self.loss:.3g}")
        if self.waits:
            lines.append(self.waits)
        return [*lines, self.last_sign_of_life("train")]


def run_lines(url: str) -> list[str] | None:
    """How the run at `url` is doing, for people; None where there is no run.

    Raises:
        UserError: another version wrote its record or its status.
    """
    record = RunFolder(url, "", "").record()
    owner = None if record is None else storage.identity(record.recipe_hash)
    status = storage.read_document(storage.join(url, STATUS), TrainingStatus, "use the version that wrote it", owner)
    if record is None or (status is not None and record.status == "running"):
        return status.lines() if status is not None else None
    lines = [f"{record.status}: {record.steps:,} of {counted(record.total_steps, 'step')}"]
    return [*lines, f"why: {record.error}"] if record.error else lines
