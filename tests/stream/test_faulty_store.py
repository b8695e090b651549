"""Streaming from an object store that fails now and then: the same images as from the disk, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.storage import retries
from syncclip.stream.loader import batches
from syncclip.stream.mixed import MixedStream
from tests.object_store import faulty_bucket
from tests.shards.sets import write_set
from tests.stream.test_mixed import shown, stored, stream

pytestmark = pytest.mark.fault


def streams(url: str, folder: Path) -> list[MixedStream]:
    """Two ranks of one machine, through one cache folder that holds half of the set."""
    size = ShardSet(url).shards[0].bytes
    caches = [ShardCache(6 * size, folder=str(folder), check=True) for _ in range(2)]
    return [
        stream(synthetic=ShardSet(url, cache=cache), window=2, batch=4, rank=rank, world_size=2, cache_images=0)
        for rank, cache in enumerate(caches)
    ]


@pytest.mark.parametrize("processes", [0, 2])
def test_no_image_is_lost_or_repeated(tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", (0.01,) * 3)
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.01)
    local = stream(synthetic=stored(5, 12, 1), window=2, batch=4)
    with faulty_bucket() as (bucket, proxy):
        url = storage.join(bucket, "set")
        write_set(url, classes=5, rounds=12)
        ranks = streams(url, tmp_path)
        proxy.latency = 0.005
        proxy.spoil_some(0.05 if processes else 0.2, seed=3)
        parts = [batches(mixed, 8, processes=processes, threads=1) for mixed in ranks]
        for place, (mine, other) in enumerate(zip(*parts, strict=True)):
            epoch, step = divmod(place, local.steps_per_epoch)
            assert (epoch, step) == mine[:2] == other[:2]
            whole = shown(local.batch(epoch, step))
            assert sorted(shown(mine[2]) + shown(other[2])) == sorted(whole)
        assert place + 1 == 8 * local.steps_per_epoch
        assert sum(proxy.spoilt.values()) > 0
        assert not ranks[0].corruption.names
        for mixed in ranks:
            if (ahead := mixed.synthetic.cache._prefetcher) is not None:
                ahead.shutdown()  # waits for what is still being copied, and renamed
        taken = sum(path.stat().st_size for path in tmp_path.glob("*-*"))
        assert 0 < taken <= 6 * ShardSet(url).shards[0].bytes
