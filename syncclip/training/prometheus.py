"""Prometheus gauges of a training, served by Ray at each node's metrics port with the prefix `ray_`.

Ray forgets a gauge that is not set again within two of its export intervals, 20 s by default: so each line of metrics
sets them all.
"""

from __future__ import annotations

import time


class TrainingGauges:
    """A listener of the training loop; every series carries the run's name and URL as its tags `run` and `url`."""

    def __init__(self, name: str, url: str, batch: int) -> None:
        from ray.util.metrics import Gauge

        self._run, self._batch, self._last = {"run": name, "url": url}, batch, (0, time.perf_counter())
        tags = tuple(self._run)
        self._done = Gauge("syncclip_training_steps_done", "Steps made, those of earlier starts included.", tags)
        self._planned = Gauge("syncclip_training_steps_planned", "Steps of the whole training.", tags)
        self._loss = Gauge("syncclip_training_loss", "Each term of the loss, and their weighted sum.", (*tags, "term"))
        self._speed = Gauge("syncclip_training_images_per_second", "Real images of all workers.", tags)

    def __call__(self, done: int, total: int, losses: dict[str, float]) -> None:
        (before, began), self._last = self._last, (done, time.perf_counter())
        if before:  # the first line of a start may come after steps that were not made in it
            self._speed.set((done - before) * self._batch / max(self._last[1] - began, 1e-9), self._run)
        self._done.set(done, self._run)
        self._planned.set(total, self._run)
        for term, value in losses.items():
            self._loss.set(value, self._run | {"term": term})
