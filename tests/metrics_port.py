"""Metrics of the local Ray, as scraped by Prometheus."""

from __future__ import annotations

import contextlib
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 600.0
"""Timeout in seconds until a metric is exported."""


def scraped(prefix: str, *own: str, **wanted: str) -> dict[str, float]:
    """Metrics with a prefix and these tags: name without the prefix -> value; empty if Ray is too busy to respond.

    Args:
        own: tags whose values are appended to the name, as in `images_total:committed`.
        wanted: required tag -> value.
    """
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = ""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10) as reply:
        text = reply.read().decode()
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(prefix) and wanted.items() <= sample.labels.items():
                suffixes = [sample.labels[tag] for tag in own if tag in sample.labels]
                values[":".join([sample.name.removeprefix(prefix), *suffixes])] = sample.value
    return values
