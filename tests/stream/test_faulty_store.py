"""Streaming from an object store with transient errors: each image occurs once, as from the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.storage import retries
from syncclip.stream.loader import batches
from tests.object_store import faulty_bucket
from tests.shards.sets import write_set
from tests.stream.test_mixed import shown, stored, stream

pytestmark = pytest.mark.fault


@pytest.mark.parametrize("processes", [0, 2])
def test_no_image_is_lost_or_repeated(tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    local = stream(synthetic=stored(5, 12, 1), window=2, batch=4)
    with faulty_bucket() as (bucket, proxy):
        url = storage.join(bucket, "set")
        write_set(url, classes=5, rounds=12)
        limit = 6 * ShardSet(url).shards[0].bytes  # half of the dataset
        caches = [ShardCache(limit, folder=str(tmp_path)) for _ in range(2)]
        ranks = [
            stream(synthetic=ShardSet(url, cache=cache), window=2, batch=4, rank=rank, world_size=2, cache_images=0)
            for rank, cache in enumerate(caches)
        ]
        proxy.latency = 0.005
        proxy.spoil_some(0.05 if processes else 0.2, seed=3)
        batches_of_ranks = [batches(rank, 8, processes=processes, threads=1) for rank in ranks]
        for number, (first, second) in enumerate(zip(*batches_of_ranks, strict=True)):
            position = divmod(number, local.steps_per_epoch)
            assert position == first[:2] == second[:2]
            assert sorted(shown(first[2]) + shown(second[2])) == sorted(shown(local.batch(*position)))
        assert number + 1 == 8 * local.steps_per_epoch
        assert sum(proxy.spoilt.values()) > 0
        assert not ranks[0].corruption.names
        for cache in caches:
            if cache._prefetcher is not None:
                cache._prefetcher.shutdown()  # waits for running copies
        assert 0 < sum(path.stat().st_size for path in tmp_path.glob("*-*")) <= limit
