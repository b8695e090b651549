"""Copies of remote shards, shared and checked; see test_reader.py for reading through a cache."""

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


def flip(url: str, place: int = 700) -> None:
    data = bytearray(storage.read_bytes(url))
    data[place] ^= 1
    storage.write_bytes(url, bytes(data))


def test_two_caches_of_one_folder_copy_a_shard_once(url: str, tmp_path: Path) -> None:
    caches = [ShardCache(folder=str(tmp_path / "cache")) for _ in range(2)]
    for cache in caches:
        assert index_of(ShardSet(url, cache=cache).image(4)) == 4
    assert [cache.fetched for cache in caches] == [1, 0]


def test_a_shard_that_was_made_anew_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    url, sizes = f"memory://{tmp_path}/one", set()
    for first in (0, 3):
        sizes.add(write_shard(url, 0, [sample(index, 3) for index in range(first, first + 3)]).bytes)
        assert index_of(ShardSet(url, cache=ShardCache(folder=str(tmp_path))).image(0)) == first
    assert len(sizes) == 1


def test_what_is_no_longer_held_gives_room_to_other_processes(url: str, tmp_path: Path) -> None:
    size = ShardSet(url).shards[0].bytes
    mine, other = (ShardCache(limit_bytes=size, folder=str(tmp_path / "cache")) for _ in range(2))
    ShardSet(url, cache=mine).image(0)
    assert index_of(ShardSet(url, cache=other).image(3)) == 3
    assert other.fetched == 0  # all room is held: this image alone came over the network
    mine.hold([], f"{url}/")
    assert index_of(ShardSet(url, cache=other).image(3)) == 3
    assert other.fetched == 1


def test_a_forked_process_reads_and_leaves_the_parents_files_open(url: str, tmp_path: Path) -> None:
    images = ShardSet(url, cache=ShardCache(folder=str(tmp_path)))
    images.hold([0, 1])
    assert index_of(images.image(0)) == 0
    images.cache._lock.acquire()  # as another thread may have it
    child = os.fork()
    if child:
        images.cache._lock.release()
    else:
        signal.alarm(60)  # rather than wait for ever for a lock that nobody will give back
        images.hold([2])  # needs threads of its own
        os._exit(0 if [index_of(images.image(row)) for row in (0, 7)] == [0, 7] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert index_of(images.image(0)) == 0


@pytest.mark.fault
@pytest.mark.parametrize("place", ["local", "remote", "shared"])
def test_a_flipped_byte_is_found_and_named(url: str, tmp_path: Path, place: str) -> None:
    if place == "local":
        url = str(tmp_path / "set")
        write_set(url, classes=3, rounds=4)
    flip(f"{url}/00001.tar")
    cache = ShardCache(check=True, folder=str(tmp_path / "cache") if place == "shared" else None)
    images = ShardSet(url, cache=cache)
    assert index_of(images.image(0)) == 0
    for row in (3, 4):
        with pytest.raises(UnreadableImageError, match=r"00001.tar: its checksum differs") as caught:
            images.image(row)
        assert caught.value.images == 3


@pytest.mark.fault
@pytest.mark.parametrize("check", [True, False])
def test_a_copy_that_came_damaged_is_fetched_once_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    ask, spoilt = downloads._read, []

    def once(fs: Any, path: str, *where: Any, **named: Any) -> bytes:
        data = ask(fs, path, *where, **named)
        if spoilt or not path.endswith(".tar"):
            return data
        spoilt.append(path)
        return data[:-100]

    monkeypatch.setattr(downloads, "_read", once)
    images = ShardSet(url, cache=ShardCache(check=check, folder=str(tmp_path)))
    assert index_of(images.image(1)) == 1
    assert spoilt
