"""Training progress for other processes, in `training.json` and as Prometheus gauges."""

from __future__ import annotations

import time

from pydantic import PrivateAttr

from syncclip import storage
from syncclip.core.text import as_ascii, counted, duration
from syncclip.storage.status_file import JobStatus
from syncclip.training.run_folder import RunFolder

STATUS = "training.json"


class TrainingStatus(JobStatus):
    """Contents of `training.json`, which also serves as the driver's heartbeat. Times are in seconds."""

    steps: int = 0
    total_steps: int = 0
    rate: float = 0.0
    """Steps per second since the last (re)start."""
    loss: float | None = None
    """Total loss in the last metrics line."""
    waits: str = ""
    """Reason why the workers are waiting for resources; empty while the workers run."""

    _first: tuple[int, float] | None = PrivateAttr(None)
    """Step and time of the first metrics line since the last (re)start."""

    def count(self, steps: int, total_steps: int, loss: float) -> None:
        """Update the status from a new metrics line."""
        self.steps, self.total_steps, self.loss = steps, total_steps, loss
        now = time.monotonic()
        before, since = self._first = self._first or (steps, now)
        if steps > before:
            self.rate = round((steps - before) / (now - since), 4)

    def lines(self) -> list[str]:
        """Format the status of a run that is in progress or has lost its driver."""
        done = f"{self.state}: {self.steps:,} of {counted(self.total_steps, 'step')}"
        if not self.steps:
            done = f"{self.state}: no step completed yet"
        if self.rate:
            done += f" · {self.rate:.3g} steps/s · {duration((self.total_steps - self.steps) / self.rate)} left"
        lines = [done, *self.why()]
        if self.loss is not None:
            lines.append(f"loss: {self.loss:.3g}")
        if self.waits:
            lines.append(self.waits)
        return [*lines, self.last_heartbeat("train")]


def status_lines(url: str) -> list[str] | None:
    """Return the status of the run at `url` as lines of text, or None if there is no run.

    Raises:
        UserError: the record or the status can't be read.
    """
    record = RunFolder(url, "", "").record()
    owner = None if record is None else storage.identity(record.recipe_hash)
    status = storage.read_document(storage.join(url, STATUS), TrainingStatus, "use the version that wrote it", owner)
    if record is None or (status is not None and record.status == "running"):
        return status.lines() if status is not None else None
    lines = [f"{record.status}: {record.steps:,} of {counted(record.total_steps, 'step')}"]
    return [*lines, f"why: {record.error}"] if record.error else lines


class TrainingGauges:
    """Listener of the training loop that sets Prometheus gauges, which Ray exports with the `ray_` prefix.

    Every series has `run` and `url` tags, percent-encoded since Ray requires ASCII. Ray drops a gauge that is not set
    within two export intervals (20 s by default), so each metrics line sets all gauges.
    """

    def __init__(self, name: str, url: str) -> None:
        from ray.util.metrics import Gauge

        self._run = {"run": as_ascii(name), "url": as_ascii(url)}
        tags = tuple(self._run)
        self._done = Gauge("syncclip_training_steps_done", "Completed steps, including earlier attempts.", tags)
        self._planned = Gauge("syncclip_training_steps_planned", "Total number of training steps.", tags)
        self._loss = Gauge("syncclip_training_loss", "Loss terms and their weighted sum.", (*tags, "term"))
        self._speed = Gauge("syncclip_training_images_per_second", "Real images per second, summed over workers.", tags)

    def __call__(self, done: int, total: int, losses: dict[str, float], speed: float) -> None:
        self._speed.set(speed, self._run)
        self._done.set(done, self._run)
        self._planned.set(total, self._run)
        for term, value in losses.items():
            self._loss.set(value, self._run | {"term": as_ascii(term)})
