"""The metrics of a synthesis arrive where Prometheus asks for them: at the metrics port of a real Ray."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from syncclip.synthesis.facts import Facts
from syncclip.synthesis.maker import Report
from syncclip.synthesis.metrics import Metrics

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

PATIENCE = 120.0
"""Seconds; Ray passes metrics on every few seconds."""


def scraped(url: str) -> dict[str, float]:
    """Series of the set at `url` -> value, without the tags that Ray adds."""
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    found = {}
    for name, tags, value in re.findall(r"^(ray_syncclip_\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE):
        known = dict(re.findall(r'(\w+)="(.*?)"', tags))
        if known.get("set") == url:
            own = [known[tag] for tag in ("outcome", "reason", "stage", "le") if tag in known]
            found[":".join([name, *own])] = float(value)
    return found


def test_the_metrics_of_a_set_can_be_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.synthesis.metrics.GAUGE_INTERVAL", 0.5)
    url, facts = "s3://bucket/set", Facts(total=40, images=10, most=2)
    expected = {
        "ray_syncclip_images_total": 20,
        "ray_syncclip_shards_total:committed": 2,
        "ray_syncclip_shards_total:failed": 1,
        "ray_syncclip_rejects_total:blank": 3,
        "ray_syncclip_stage_seconds_total:generate": 5,
        "ray_syncclip_stage_seconds_total:write": 0.25,
        "ray_syncclip_restarts_total": 1,
        "ray_syncclip_shard_seconds_count": 2,
        "ray_syncclip_images_planned": 40,
        "ray_syncclip_images_done": 30,
        "ray_syncclip_actors": 2,
    }
    with Metrics(url, facts) as metrics:
        for report in (
            Report(0, started=10.0, ended=12.0, generate=1.5, write=0.25, worker="a", rejects='{"blank": 3}'),
            Report(1, started=10.0, ended=14.0, generate=3.5, worker="b", deaths=1),
            Report(2, started=12.0, ended=13.0, worker="a", error="OSError: reset"),
        ):
            facts.count(report, 10)
            metrics.count(report, 10)
        deadline = time.monotonic() + PATIENCE
        while not expected.items() <= (found := scraped(url)).items() and time.monotonic() < deadline:
            time.sleep(0.5)
    assert {name: found.get(name) for name in expected} == expected
