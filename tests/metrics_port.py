"""What a real Ray serves where Prometheus asks: at its metrics port."""

from __future__ import annotations

import contextlib
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 600.0
"""Seconds after which they count as missing; Ray passes metrics on every few seconds."""


def scraped(prefix: str, *own: str, **wanted: str) -> dict[str, float]:
    """Series whose name begins with `prefix` and that carry the wanted tags: name without it -> value.

    Where Ray is too busy to answer there are none: ask again.

    Args:
        own: tags whose values are told behind the name, as in `images_total:committed`.
        wanted: tag -> value of the series that are meant; Ray adds tags of its own.
    """
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = ""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10) as reply:
        text = reply.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(prefix) and wanted.items() <= sample.labels.items():
                values = [sample.labels[tag] for tag in own if tag in sample.labels]
                found[":".join([sample.name.removeprefix(prefix), *values])] = sample.value
    return found
