"""The index of a finished set: what it tells is what markers and tables tell, or it isn't used."""

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
    return {one.name: getattr(images.samples, one.name).tolist() for one in fields(SampleTable)}


def by_tables(url: str) -> ShardSet:
    """The set as it was opened before there was an index."""
    forget_index(url)
    return ShardSet(url)


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(1, 300),
    rounds=st.integers(1, 4),
    without=st.sets(st.integers(0, 30)),
    amount=st.integers(1, 5),
    swapped=st.booleans(),
)
def test_an_index_tells_what_markers_and_tables_tell(
    tmp_path_factory: pytest.TempPathFactory, classes: int, rounds: int, without: set[int], amount: int, swapped: bool
) -> None:
    url = str(tmp_path_factory.mktemp("set"))
    indices = [index for index in range(classes * rounds) if index not in without] or [31 * classes]
    half = len(indices) // 2
    parts = (indices[::2], indices[1::2]) if swapped else (indices[:half], indices[half:])
    for shard, part in enumerate(parts):
        write_shard(url, shard, [sample(index, classes) for index in part])
    before = ShardSet(url)
    index_set(url)
    assert read_index(url) is not None
    after = ShardSet(url)
    assert committed_shards(url) == after.shards == before.shards
    for one, other in ((before, after), (before.subset(amount), after.subset(amount))):
        assert columns(one) == columns(other)
        assert one.labels.tolist() == other.labels.tolist()
        assert all(
            one.rows_of(label).tolist() == np.flatnonzero(one.labels == label).tolist() for label in range(classes)
        )
        assert all(one.rows_of(label).tolist() == other.rows_of(label).tolist() for label in range(-1, classes + 1))
        for row in (0, len(one) - 1):
            assert one.read(row) == other.read(row) == jpeg(int(one.samples.index[row]))
            assert (one.text(row), one.provenance(row)) == (other.text(row), other.provenance(row))


def test_on_s3_it_takes_two_files_however_many_shards_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_bucket() as bucket:
        write_set(f"{bucket}/set", classes=2, rounds=30)
        index_set(f"{bucket}/set")
        asked: list[str] = []

        def counting(whole: Callable[..., Any]) -> Callable[..., Any]:
            return lambda url, *rest, **named: asked.append(url) or whole(url, *rest, **named)

        with monkeypatch.context() as patch:
            for place in ("files.read_bytes", "fetch", "read_many"):
                patch.setattr(f"syncclip.storage.{place}", counting(attrgetter(place)(storage)))
            patch.setattr("syncclip.shards.index.listing_prefixes", partial(listing_prefixes, most=8))
            images = ShardSet(f"{bucket}/set")
        assert asked == [f"{bucket}/set/{INDEX}", f"{bucket}/set/{COLUMNS}"]
        assert images.read(59) == jpeg(59)


@given(st.sets(st.integers(0, 250_000), max_size=300), st.integers(1, 40), st.integers(0, 10**6))
def test_each_file_of_a_shard_has_one_beginning_and_few_share_one(shards: set[int], most: int, other: int) -> None:
    names = [shard_name(one) for one in sorted(shards)]
    found = listing_prefixes(names, most)
    for name in (*names, table_name(other), stats_name(other), INDEX, COLUMNS):
        assert sum(name.startswith(one) for one in found) == 1
    for one in found:
        assert len(one) == 4 or sum(name.startswith(one) for name in names) <= most


def test_a_run_lists_a_set_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = str(tmp_path)
    write_set(url, classes=3, rounds=4)
    index_set(url)
    listings: list[str] = []
    sizes = storage.sizes
    monkeypatch.setattr(storage, "sizes", lambda place, *rest: listings.append(place) or sizes(place, *rest))
    committed_shards(url)
    ShardSet(url, resolved=True)
    assert listings == [url]
    ShardSet(url)  # of no run
    assert listings == [url, url]
    with Session():  # of a run whose index didn't match
        ShardSet(url, resolved=True)
    assert listings == [url] * 3
    change(tmp_path, sha256="0" * 64)  # by another process
    assert len(ShardSet(url, resolved=True)) == 12
    assert len(listings) > 3


def test_where_images_are_stored_is_mapped_and_takes_no_memory(tmp_path: Path) -> None:
    images, shards = 200_000, 200
    each = images // shards
    index = np.arange(images)
    where = [index, index % 100, index // each, index % each, index % each * 4096 + 512, 1000 + index % 3000]
    size = each * 4096
    told = [Shard(shard, each, size, "0" * 64, "1" * 64) for shard in range(shards)]
    for shard in range(shards):
        (tmp_path / stats_name(shard)).touch()
        (tmp_path / table_name(shard)).touch()
        with (tmp_path / shard_name(shard)).open("wb") as tar:
            tar.truncate(size)
    write_index(str(tmp_path), told, SampleTable.of(where))
    ShardSet(str(tmp_path))  # imports what it needs
    tracemalloc.start()
    try:
        found = ShardSet(str(tmp_path))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(found) == images
    assert held <= 1.5 * images


Spoil = Callable[[Path], object]
SPOILT: dict[str, Spoil] = {
    "a shard was added": lambda folder: write_shard(str(folder), 3, [sample(9, 3)]),
    "a shard was removed": lambda folder: [
        (folder / name(1)).unlink() for name in (shard_name, table_name, stats_name)
    ],
    "a marker was removed": lambda folder: (folder / stats_name(1)).unlink(),
    "a table was removed": lambda folder: (folder / table_name(1)).unlink(),
    "a tar was cut short": lambda folder: (folder / shard_name(1)).write_bytes(b"short"),
    "the columns are gone": lambda folder: (folder / COLUMNS).unlink(),
    "the columns are empty": lambda folder: (folder / COLUMNS).write_bytes(b""),
    "the columns were cut": lambda folder: (folder / COLUMNS).write_bytes((folder / COLUMNS).read_bytes()[:-1]),
    "the columns were flipped": lambda folder: flip(folder / COLUMNS, -3),
    "the index was flipped": lambda folder: flip(folder / INDEX, 20),
    "the index was cut": lambda folder: (folder / INDEX).write_bytes((folder / INDEX).read_bytes()[:50]),
    "the index is of a later version": lambda folder: later(folder),
    "the index is none": lambda folder: storage.write_with_checksum(str(folder / INDEX), b"[]"),
}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def later(folder: Path) -> None:
    """An index of a version that knows more."""
    text = storage.read_bytes(str(folder / INDEX)).decode().rstrip()
    values = {**json.loads(text), "format": 2, "more": 1}
    storage.write_with_checksum(str(folder / INDEX), json.dumps(values).encode())


def change(folder: Path, **values: object) -> None:
    """An index whose checksum is right, but not its content."""
    found = Index.model_validate_json(storage.read_bytes(str(folder / INDEX)))
    storage.write_with_checksum(str(folder / INDEX), found.model_copy(update=values).model_dump_json().encode())


@pytest.mark.fault
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("how", SPOILT)
def test_one_that_is_damaged_or_does_not_fit_is_as_if_it_were_not_there(tmp_path: Path, how: str, check: bool) -> None:
    write_set(str(tmp_path), classes=3, rounds=3)
    index_set(str(tmp_path))
    SPOILT[how](tmp_path)
    found, there = ShardSet(str(tmp_path), cache=ShardCache(check=check)), committed_shards(str(tmp_path))
    expected = by_tables(str(tmp_path))
    assert columns(found) == columns(expected)
    assert there == found.shards == expected.shards
    assert list(there) == list(committed(str(tmp_path)))


@pytest.mark.fault
@pytest.mark.parametrize("room", [0, 1 << 20])
def test_damaged_columns_of_a_store_are_not_used(tmp_path: Path, room: int) -> None:
    url = f"memory://{tmp_path}"
    write_set(url, classes=3, rounds=3)
    index_set(url)
    expected = columns(ShardSet(url, cache=ShardCache(room)))
    data = bytearray(storage.read_bytes(f"{url}/{COLUMNS}"))
    data[-3] ^= 1
    storage.write_bytes(f"{url}/{COLUMNS}", bytes(data))
    assert columns(ShardSet(url, cache=ShardCache(room))) == expected


def test_what_a_run_knows_of_a_listing_ends_with_its_next_listing(tmp_path: Path) -> None:
    url = str(tmp_path)
    write_set(url, classes=3, rounds=4)
    index_set(url)
    committed_shards(url)
    SPOILT["a shard was removed"](tmp_path)
    assert list(committed_shards(url)) == [0, 2, 3]
    assert list(ShardSet(url, resolved=True).shards) == [0, 2, 3]


@pytest.mark.parametrize("place", ["local", "remote"])
def test_a_cache_does_not_take_an_earlier_index_for_a_later_one(tmp_path: Path, place: str) -> None:
    url, cache = str(tmp_path) if place == "local" else f"memory://{tmp_path}", ShardCache()
    write_set(url, classes=3, rounds=3)
    index_set(url)
    ShardSet(url, cache=cache)
    write_set(url, classes=3, rounds=3, without={1})
    index_set(url)
    assert columns(ShardSet(url, cache=cache)) == columns(by_tables(url))


Strange = Callable[[dict[str, np.ndarray]], object]
STRANGE: dict[str, Strange] = {
    "of fewer images": lambda table: table.update(label=table["label"][:-1]),
    "of a shard that isn't there": lambda table: table["shard"].__setitem__(4, 7),
    "of a row that isn't there": lambda table: table["by_label"].__setitem__(4, 9),
    "of an image larger than a shard": lambda table: table.update(size=table["size"].astype(np.uint64) << 40),
    "of a negative row": lambda table: table.update(by_label=table["by_label"].astype(np.int64) - 1),
    "of classes in disorder": lambda table: table["starts"].sort() or table["starts"].__setitem__(1, 8),
    "of no class": lambda table: table.update(classes=table["classes"][:0]),
    "without a column": lambda table: table.pop("size"),
    "of fractions": lambda table: table.update(size=table["size"].astype(np.float32)),
}


@pytest.mark.fault
@pytest.mark.parametrize("how", STRANGE)
def test_a_strangers_index_leads_nowhere(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(str(tmp_path), classes=3, rounds=3)
    index_set(str(tmp_path))
    table = load((tmp_path / COLUMNS).read_bytes())
    STRANGE[how](table)
    (tmp_path / COLUMNS).write_bytes(data := save(table))
    change(tmp_path, sha256=storage.file_sha256((tmp_path / COLUMNS).open("rb")), bytes=len(data))
    found = ShardSet(str(tmp_path))
    assert "unusable index" in capsys.readouterr().err
    assert columns(found) == columns(by_tables(str(tmp_path)))


@pytest.mark.fault
def test_a_set_with_a_damaged_table_gets_none(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=3)
    (tmp_path / table_name(1)).write_bytes(b"torn")
    index_set(str(tmp_path))
    assert not (tmp_path / INDEX).exists()
