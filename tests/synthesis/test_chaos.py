"""Kills of processes and faults of the object store during a synthesis. `make chaos` is the long form, with figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.object_store import faulty_bucket
from tests.worlds.chaos import Weather, digests, quiet_bytes, storm, times_there
from tests.worlds.light import light_plan

SHARDS, SHARD_SIZE = 208, 16


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_kills_and_faults_change_no_byte(tmp_path: Path) -> None:
    plan = light_plan(SHARDS, SHARD_SIZE)
    expected = quiet_bytes(plan, tmp_path / "quiet")
    with faulty_bucket() as (bucket, proxy):
        proxy.spoil_some(0.05, seed=1)
        # With this seed all kinds of processes are killed within the first third of the images.
        weather = Weather(proxy.endpoint, actors=2, pace=0.02, every=280.0, seed=162, limit=1100.0)
        toll = storm(plan, f"{bucket}/set", tmp_path, weather)
        proxy.soothe()
        assert digests(f"{bucket}/set") == expected
        assert set(times_there(plan, f"{bucket}/set").values()) == {1}
        assert {"503", "reset", "slow"} <= proxy.spoilt.keys()
    assert {"actor", "driver", "queue", "worker"} <= toll.kills.keys()
    # A process that dies may lose the shard that it writes and the one that it generates.
    assert 0 <= toll.wasted <= toll.deaths * 2 * SHARD_SIZE + toll.failed
