"""Copies of remote shards: sharing, eviction and verification; test_reader.py tests reading through a cache."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.shards.cache import ShardCache
from syncclip.shards.images import UnreadableImageError
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import write_shard
from syncclip.storage import downloads
from tests.shards.sets import index_of, sample, write_set


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"memory://{tmp_path}"
    write_set(url, classes=3, rounds=4)
    return url


def test_caches_with_a_common_folder_copy_a_shard_once(url: str, tmp_path: Path) -> None:
    caches = [ShardCache(folder=str(tmp_path / "cache")) for _ in range(2)]
    for cache in caches:
        assert index_of(ShardSet(url, cache=cache).image(4)) == 4
    assert [cache.fetched for cache in caches] == [1, 0]


def test_a_copy_of_a_replaced_shard_is_not_used(tmp_path: Path) -> None:
    url, sizes = f"memory://{tmp_path}/one", set()
    for first in (0, 3):
        sizes.add(write_shard(url, 0, [sample(index, 3) for index in range(first, first + 3)]).bytes)
        assert index_of(ShardSet(url, cache=ShardCache(folder=str(tmp_path))).image(0)) == first
    assert len(sizes) == 1


def test_released_copies_are_evicted_by_other_processes(url: str, tmp_path: Path) -> None:
    size = ShardSet(url).shards[0].bytes
    first, second = (ShardCache(limit_bytes=size, folder=str(tmp_path / "cache")) for _ in range(2))
    ShardSet(url, cache=first).image(0)
    assert index_of(ShardSet(url, cache=second).image(3)) == 3
    assert second.fetched == 0  # read over the network, since the first cache uses the folder's whole limit
    first.hold([], f"{url}/")
    assert index_of(ShardSet(url, cache=second).image(3)) == 3
    assert second.fetched == 1


def test_a_forked_process_can_read_and_does_not_close_its_parents_files(url: str, tmp_path: Path) -> None:
    images = ShardSet(url, cache=ShardCache(folder=str(tmp_path)))
    images.hold([0, 1])
    assert index_of(images.image(0)) == 0
    images.cache._lock.acquire()  # a thread may hold the lock during the fork
    child = os.fork()
    if child:
        images.cache._lock.release()
    else:
        signal.alarm(60)  # ends a deadlock
        images.hold([2])  # starts new threads
        os._exit(0 if [index_of(images.image(row)) for row in (0, 7)] == [0, 7] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert index_of(images.image(0)) == 0


@pytest.mark.fault
@pytest.mark.parametrize("location", ["local", "remote", "shared"])
def test_a_flipped_bit_is_reported_with_the_shards_name(url: str, tmp_path: Path, location: str) -> None:
    if location == "local":
        url = str(tmp_path / "set")
        write_set(url, classes=3, rounds=4)
    data = bytearray(storage.read_bytes(f"{url}/00001.tar"))
    data[700] ^= 1
    storage.write_bytes(f"{url}/00001.tar", bytes(data))
    images = ShardSet(url, cache=ShardCache(folder=str(tmp_path / "cache") if location == "shared" else None))
    assert index_of(images.image(0)) == 0
    for row in (3, 4):
        with pytest.raises(UnreadableImageError, match=r"00001.tar: its checksum does not match") as caught:
            images.image(row)
        assert caught.value.images == 3


@pytest.mark.fault
@pytest.mark.parametrize("check", [True, False])
def test_a_truncated_download_is_repeated(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    read, truncated = downloads._read, []

    def truncate_once(fs: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        data = read(fs, path, *args, **kwargs)
        if truncated or not path.endswith(".tar"):
            return data
        truncated.append(path)
        return data[:-100]

    monkeypatch.setattr(downloads, "_read", truncate_once)
    images = ShardSet(url, cache=ShardCache(check=check, folder=str(tmp_path)))
    assert index_of(images.image(1)) == 1
    assert truncated
