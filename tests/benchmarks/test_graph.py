"""The driver's memory does not grow with the shards that pass; `python -m benchmarks.graph` shows it for 10,000."""

from __future__ import annotations

import pytest

from benchmarks.graph import memory

pytestmark = [pytest.mark.nightly, pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

LEAK = 0.1
"""MB of the driver for each shard: what would make a gigabyte of 10,000."""


def test_the_drivers_memory_is_flat_while_shards_pass() -> None:
    found = memory(shards=400, actors=2)
    assert len(found) == 10
    (early, _, low), (late, _, high) = found[4], found[-1]
    assert (high - low) / (late - early) < LEAK
