"""Prometheus metrics of a synthesis, served by Ray at each node's metrics port with the prefix `ray_`.

They are counted in the driver, from the reports: a metric of an actor would vanish with its process.
"""

from __future__ import annotations

import json
from typing import Any

from syncclip.synthesis.status import STAGES, Report, SynthesisStatus

SHARD_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bounds of the histogram of a shard's time."""

GAUGE_INTERVAL = 5.0
"""Seconds; Ray forgets a gauge that is not set again within two of its export intervals, 20 s by default."""


class SynthesisMetrics:
    """Counts what the shards of one set bring; every series carries the set's URL as its tag `set`."""

    def __init__(self, url: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._set = {"set": url}

        def counter(name: str, description: str, *tags: str) -> Any:
            return Counter(f"syncclip_{name}", description, ("set", *tags))

        self._images = counter("images", "Images that this run committed.")
        self._shards = counter("shards", "Shards that came back, by outcome: committed or failed.", "outcome")
        self._rejects = counter("rejects", "Images that were generated and not taken, by reason.", "reason")
        self._stages = counter("stage_seconds", "Seconds of work by stage, summed over actors.", "stage")
        self._restarts = counter("restarts", "Shards started again since the process that generated them had died.")
        self._seconds: Any = Histogram(
            "syncclip_shard_seconds", "From the start of a shard to its commit.", list(SHARD_SECONDS), ("set",)
        )
        self._planned = Gauge("syncclip_images_planned", "Images that the set will hold.", ("set",))
        self._done = Gauge("syncclip_images_done", "Images that are committed, earlier runs included.", ("set",))
        self._actors = Gauge("syncclip_actors", "Actors that generate now.", ("set",))

    def count(self, report: Report, images: int) -> None:
        """Add a shard's report; `images` are its planned images."""
        self._shards.inc(1, self._set | {"outcome": "failed" if report.error else "committed"})
        for stage in STAGES:
            if spent := getattr(report, stage):
                self._stages.inc(spent, self._set | {"stage": stage})
        if report.deaths:
            self._restarts.inc(report.deaths, self._set)
        if not report.error:
            self._images.inc(images, self._set)
            self._seconds.observe(max(0.0, report.ended - report.started), self._set)
            for reason, count in json.loads(report.rejects).items():
                self._rejects.inc(count, self._set | {"reason": reason})

    def set_gauges(self, status: SynthesisStatus) -> None:
        """Set the gauges to what the status says; see `GAUGE_INTERVAL`."""
        self._planned.set(status.planned, self._set)
        self._done.set(status.images, self._set)
        self._actors.set(status.actors, self._set)
