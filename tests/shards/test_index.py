"""The index of a finished dataset: it equals markers and tables, or is not used."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from syncclip import storage
from syncclip.core.session import Session
from syncclip.shards.cache import ShardCache
from syncclip.shards.index import (
    COLUMNS,
    INDEX,
    Index,
    SampleTable,
    committed_shards,
    forget_index,
    index_set,
    listing_prefixes,
    read_index,
    write_index,
)
from syncclip.shards.markers import Shard, committed, shard_name, stats_name, table_name
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import write_shard
from tests.object_store import s3_bucket
from tests.shards.sets import jpeg, sample, write_set


def columns(images: ShardSet) -> dict[str, list[int]]:
    return {field.name: getattr(images.samples, field.name).tolist() for field in fields(SampleTable)}


def without_index(url: str) -> ShardSet:
    forget_index(url)
    return ShardSet(url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An indexed dataset of three shards with one image of each of three classes."""
    write_set(str(tmp_path), classes=3, rounds=3)
    index_set(str(tmp_path))
    return tmp_path


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(1, 300),
    rounds=st.integers(1, 4),
    without=st.sets(st.integers(0, 30)),
    max_per_class=st.integers(1, 5),
    interleaved=st.booleans(),
)
def test_an_index_equals_markers_and_tables(
    tmp_path_factory: pytest.TempPathFactory,
    classes: int,
    rounds: int,
    without: set[int],
    max_per_class: int,
    interleaved: bool,
) -> None:
    url = str(tmp_path_factory.mktemp("set"))
    indices = [index for index in range(classes * rounds) if index not in without] or [31 * classes]
    half = len(indices) // 2
    parts = (indices[::2], indices[1::2]) if interleaved else (indices[:half], indices[half:])
    for shard, part in enumerate(parts):
        write_shard(url, shard, [sample(index, classes) for index in part])
    before = ShardSet(url)
    index_set(url)
    assert read_index(url) is not None
    after = ShardSet(url)
    assert committed_shards(url) == after.shards == before.shards
    for expected, actual in ((before, after), (before.subset(max_per_class), after.subset(max_per_class))):
        assert columns(actual) == columns(expected)
        for label in range(-1, classes + 1):
            assert actual.rows_of(label).tolist() == np.flatnonzero(expected.labels == label).tolist()
        for row in (0, len(expected) - 1):
            assert actual.read(row) == expected.read(row) == jpeg(int(expected.samples.index[row]))
            assert (actual.text(row), actual.provenance(row)) == (expected.text(row), expected.provenance(row))


def test_an_indexed_dataset_on_s3_is_opened_with_two_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_bucket() as bucket:
        write_set(f"{bucket}/set", classes=2, rounds=30)
        index_set(f"{bucket}/set")
        reads: list[str] = []

        def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda url, *args, **kwargs: reads.append(url) or function(url, *args, **kwargs)

        with monkeypatch.context() as patch:
            for name in ("files.read_bytes", "fetch", "read_many"):
                patch.setattr(f"syncclip.storage.{name}", recorded(attrgetter(name)(storage)))
            patch.setattr("syncclip.shards.index.listing_prefixes", partial(listing_prefixes, limit=8))
            images = ShardSet(f"{bucket}/set")
        assert reads == [f"{bucket}/set/{INDEX}", f"{bucket}/set/{COLUMNS}"]
        assert images.read(59) == jpeg(59)


@given(st.sets(st.integers(0, 250_000), max_size=300), st.integers(1, 40), st.integers(0, 10**6))
def test_each_file_name_has_one_listing_prefix_and_prefixes_are_balanced(
    shards: set[int], limit: int, other: int
) -> None:
    names = [shard_name(shard) for shard in sorted(shards)]
    prefixes = listing_prefixes(names, limit)
    for name in (*names, table_name(other), stats_name(other), INDEX, COLUMNS):
        assert sum(name.startswith(prefix) for prefix in prefixes) == 1
    for prefix in prefixes:
        assert len(prefix) == 4 or sum(name.startswith(prefix) for name in names) <= limit


def test_a_run_lists_a_dataset_once(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    url = str(folder)
    listings: list[str] = []
    sizes = storage.sizes
    monkeypatch.setattr(storage, "sizes", lambda url, *rest: listings.append(url) or sizes(url, *rest))
    committed_shards(url)
    ShardSet(url, resolved=True)
    assert listings == [url]
    ShardSet(url)  # not of a resolved run
    assert listings == [url, url]
    with Session():  # the index did not match when the run was resolved
        ShardSet(url, resolved=True)
    assert listings == [url] * 3
    change_index(folder, sha256="0" * 64)  # by another process
    assert len(ShardSet(url, resolved=True)) == 9
    assert len(listings) > 3


def test_a_memory_mapped_sample_table_uses_little_memory(tmp_path: Path) -> None:
    images, shards = 200_000, 200
    per_shard = images // shards
    index, size = np.arange(images), per_shard * 4096
    table = [index, index % 100, index // per_shard, index % per_shard]
    table += [index % per_shard * 4096 + 512, 1000 + index % 3000]
    for shard in range(shards):
        (tmp_path / stats_name(shard)).touch()
        (tmp_path / table_name(shard)).touch()
        with (tmp_path / shard_name(shard)).open("wb") as tar:
            tar.truncate(size)
    markers = [Shard(shard, per_shard, size, "0" * 64, "1" * 64) for shard in range(shards)]
    write_index(str(tmp_path), markers, SampleTable.of(table))
    ShardSet(str(tmp_path))  # imports modules
    tracemalloc.start()
    try:
        dataset = ShardSet(str(tmp_path))
        allocated = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(dataset) == images
    assert allocated <= 1.5 * images


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


def change_index(folder: Path, **values: object) -> None:
    """Change values of the index, and write it with a valid checksum."""
    index = Index.model_validate_json(storage.read_bytes(str(folder / INDEX)))
    content = json.dumps({**index.model_dump(mode="json"), **values}).encode()
    storage.write_with_checksum(str(folder / INDEX), content)


def remove_shard(folder: Path) -> None:
    for name in (shard_name, table_name, stats_name):
        (folder / name(1)).unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "added shard": lambda folder: write_shard(str(folder), 3, [sample(9, 3)]),
    "removed shard": remove_shard,
    "removed marker": lambda folder: (folder / stats_name(1)).unlink(),
    "removed table": lambda folder: (folder / table_name(1)).unlink(),
    "truncated tar": lambda folder: (folder / shard_name(1)).write_bytes(b"short"),
    "removed columns": lambda folder: (folder / COLUMNS).unlink(),
    "empty columns": lambda folder: (folder / COLUMNS).write_bytes(b""),
    "truncated columns": lambda folder: (folder / COLUMNS).write_bytes((folder / COLUMNS).read_bytes()[:-1]),
    "flipped columns": lambda folder: flip(folder / COLUMNS, -3),
    "flipped index": lambda folder: flip(folder / INDEX, 20),
    "truncated index": lambda folder: (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:50]),
    "newer index": lambda folder: change_index(folder, format=2, more=1),
    "index is a list": lambda folder: storage.write_with_checksum(str(folder / INDEX), b"[]"),
}


@pytest.mark.fault
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_outdated_index_is_ignored(folder: Path, damage: str, check: bool) -> None:
    DAMAGES[damage](folder)
    actual, shards = ShardSet(str(folder), cache=ShardCache(check=check)), committed_shards(str(folder))
    expected = without_index(str(folder))
    assert columns(actual) == columns(expected)
    assert shards == actual.shards == expected.shards
    assert list(shards) == list(committed(str(folder)))


@pytest.mark.fault
@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_corrupt_remote_columns_are_ignored(tmp_path: Path, limit: int) -> None:
    url = f"memory://{tmp_path}"
    write_set(url, classes=3, rounds=3)
    index_set(url)
    expected = columns(ShardSet(url, cache=ShardCache(limit)))
    data = bytearray(storage.read_bytes(f"{url}/{COLUMNS}"))
    data[-3] ^= 1
    storage.write_bytes(f"{url}/{COLUMNS}", bytes(data))
    assert columns(ShardSet(url, cache=ShardCache(limit))) == expected


def test_a_listing_replaces_an_earlier_one_of_the_session(folder: Path) -> None:
    committed_shards(str(folder))
    remove_shard(folder)
    assert list(committed_shards(str(folder))) == [0, 2]
    assert list(ShardSet(str(folder), resolved=True).shards) == [0, 2]


@pytest.mark.parametrize("location", ["local", "remote"])
def test_a_cache_does_not_reuse_an_outdated_index(tmp_path: Path, location: str) -> None:
    url, cache = str(tmp_path) if location == "local" else f"memory://{tmp_path}", ShardCache()
    for without in ((), (1,)):
        write_set(url, classes=3, rounds=3, without=without)
        index_set(url)
        images = ShardSet(url, cache=cache)
    assert columns(images) == columns(without_index(url))


Columns = dict[str, np.ndarray]
INVALID: dict[str, Callable[[Columns], object]] = {
    "short column": lambda table: table.update(label=table["label"][:-1]),
    "unknown shard": lambda table: table["shard"].__setitem__(4, 7),
    "row out of range": lambda table: table["by_label"].__setitem__(4, 9),
    "image larger than its shard": lambda table: table.update(size=table["size"].astype(np.uint64) << 40),
    "negative row": lambda table: table.update(by_label=table["by_label"].astype(np.int64) - 1),
    "unsorted classes": lambda table: table["starts"].sort() or table["starts"].__setitem__(1, 8),
    "no class": lambda table: table.update(classes=table["classes"][:0]),
    "missing column": lambda table: table.pop("size"),
    "floats": lambda table: table.update(size=table["size"].astype(np.float32)),
}


@pytest.mark.fault
@pytest.mark.parametrize("change", INVALID)
def test_an_invalid_index_with_valid_checksums_is_ignored(
    folder: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = load((folder / COLUMNS).read_bytes())
    INVALID[change](table)
    (folder / COLUMNS).write_bytes(data := save(table))
    change_index(folder, sha256=storage.file_sha256((folder / COLUMNS).open("rb")), bytes=len(data))
    images = ShardSet(str(folder))
    assert "unusable index" in capsys.readouterr().err
    assert columns(images) == columns(without_index(str(folder)))


@pytest.mark.fault
def test_a_dataset_with_a_corrupt_table_is_not_indexed(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=3)
    (tmp_path / table_name(1)).write_bytes(b"corrupt")
    index_set(str(tmp_path))
    assert not (tmp_path / INDEX).exists()
