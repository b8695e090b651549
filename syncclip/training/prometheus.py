"""Prometheus gauges of a training, served by Ray at each node's metrics port with the prefix `ray_`.

Ray forgets a gauge that is not set again within two of its export intervals, 20 s by default: so each line of metrics
sets them all.
"""

from __future__ import annotations

from syncclip.core.text import as_ascii


class TrainingGauges:
    """A listener of the training loop; every series carries the run's name and URL as its tags `run` and `url`.

    Ray accepts ASCII tags only: other characters are percent-encoded.
    """

    def __init__(self, name: str, url: str) -> None:
        from ray.util.metrics import Gauge

        self._run = {"run": as_ascii(name), "url": as_ascii(url)}
        tags = tuple(self._run)
        self._done = Gauge("syncclip_training_steps_done", "Steps made, those of earlier starts included.", tags)
        self._planned = Gauge("syncclip_training_steps_planned", "Steps of the whole training.", tags)
        self._loss = Gauge("syncclip_training_loss", "Each term of the loss, and their weighted sum.", (*tags, "term"))
        self._speed = Gauge("syncclip_training_images_per_second", "Real images of all workers.", tags)

    def __call__(self, done: int, total: int, losses: dict[str, float], speed: float) -> None:
        self._speed.set(speed, self._run)
        self._done.set(done, self._run)
        self._planned.set(total, self._run)
        for term, value in losses.items():
            self._loss.set(value, self._run | {"term": as_ascii(term)})
