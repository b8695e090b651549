"""The metrics of a synthesis arrive where Prometheus asks for them: at the metrics port of a real Ray."""

from __future__ import annotations

import time

import pytest

from syncclip.storage.status_file import repeating
from syncclip.synthesis.prometheus import SynthesisMetrics
from syncclip.synthesis.status import Report, SynthesisStatus
from tests.metrics_port import PATIENCE, scraped

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_the_metrics_of_a_set_can_be_scraped() -> None:
    url, status = "s3://bucket/set", SynthesisStatus.begin(40, 10, 2)
    metrics = SynthesisMetrics(url)
    expected = {
        "images_total": 20,
        "shards_total:committed": 2,
        "shards_total:failed": 1,
        "rejects_total:blank": 3,
        "stage_seconds_total:generate": 5,
        "stage_seconds_total:write": 0.25,
        "restarts_total": 1,
        "shard_seconds_count": 2,
        "images_planned": 40,
        "images_done": 30,
        "actors": 2,
    }
    with repeating(lambda: metrics.set_gauges(status), 0.5):
        for report in (
            Report(0, started=10.0, ended=12.0, generate=1.5, write=0.25, worker="a", rejects='{"blank": 3}'),
            Report(1, started=10.0, ended=14.0, generate=3.5, worker="b", deaths=1),
            Report(2, started=12.0, ended=13.0, worker="a", error="OSError: reset"),
        ):
            status.count(report, 10)
            metrics.count(report, 10)
        deadline = time.monotonic() + PATIENCE
        found: dict[str, float] = {}
        while not expected.items() <= found.items() and time.monotonic() < deadline:
            time.sleep(0.5)
            found = scraped("ray_syncclip_", "outcome", "reason", "stage", "le", set=url)
    assert {name: found.get(name) for name in expected} == expected
