"""A storm over a set on S3: its processes die, its store refuses, tears and dawdles; nothing is lost, nothing double.

`make chaos` is the long form, with figures.
"""

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
@pytest.mark.timeout(1500)
def test_a_storm_of_kills_and_faults_changes_no_byte(tmp_path: Path) -> None:
    plan = light_plan(SHARDS, SHARD_SIZE)
    quiet = quiet_bytes(plan, tmp_path / "quiet")
    with faulty_bucket() as (bucket, proxy):
        proxy.spoil_some(0.05, seed=1)
        # This seed hits every kind within the first third of the images, however late each kill comes.
        weather = Weather(proxy.endpoint, actors=2, pace=0.02, every=280.0, seed=162, limit=1100.0)
        toll = storm(plan, f"{bucket}/set", tmp_path, weather)
        proxy.soothe()
        assert digests(f"{bucket}/set") == quiet
        assert set(times_there(plan, f"{bucket}/set").values()) == {1}  # 0 lost, 0 double
        assert {"503", "reset", "slow"} <= proxy.spoilt.keys()
    assert {"actor", "driver", "ledger", "worker"} <= toll.kills.keys()
    # Of whoever dies, one shard may be on its way to the store while the next one is drawn.
    assert 0 <= toll.wasted <= toll.deaths * 2 * SHARD_SIZE + toll.failed
