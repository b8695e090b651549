"""The driver's memory does not grow with the number of shards; `python -m benchmarks.graph` measures it for 10,000."""

from __future__ import annotations

import pytest

from benchmarks.graph import memory

pytestmark = [pytest.mark.nightly, pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

LEAK = 0.1
"""Maximum increase in MB per shard: a gigabyte for 10,000 shards."""


def test_driver_memory_is_constant_over_shards() -> None:
    samples = memory(shards=400, actors=2)
    assert len(samples) == 10
    (early, _, low), (late, _, high) = samples[4], samples[-1]
    assert (high - low) / (late - early) < LEAK
