"""Commit markers and the list of committed shards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import (
    ShardStats,
    committed,
    forget_group,
    group_name,
    markers,
    markers_without_listing,
    sample_key,
    shard_name,
    stats_name,
    table_name,
    write_group,
)
from syncclip.shards.reader import ShardSet
from tests.object_store import s3_bucket
from tests.shards.sets import verify, write_set


@pytest.fixture
def url(tmp_path: Path) -> str:
    write_set(str(tmp_path), classes=3, rounds=4, rounds_per_shard=2)
    return str(tmp_path)


def test_file_names() -> None:
    assert (shard_name(7), stats_name(7), table_name(7)) == ("00007.tar", "00007_stats.json", "00007.parquet")
    assert sample_key(17) == "000000017"
    assert shard_name(123456) == "123456.tar"


def test_an_intact_dataset_has_all_its_shards_and_no_defect(url: str) -> None:
    assert list(committed(url)) == [0, 1]
    assert verify(url) == []


def test_a_missing_folder_contains_no_shard(tmp_path: Path) -> None:
    assert committed(str(tmp_path / "nowhere")) == {}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("00001_stats.json", None),
        ("00001.tar", lambda data: data[:-512]),
        ("00001.tar", lambda data: data + bytes(512)),
        ("00001.tar", None),
        ("00001.parquet", None),
    ],
    ids=["no marker", "short tar", "long tar", "no tar", "no table"],
)
def test_a_shard_without_a_valid_marker_does_not_exist(
    url: str, file: str, change: Callable[[bytes], bytes] | None
) -> None:
    path = Path(url, file)
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    assert list(committed(url)) == [0]
    assert ShardSet(url).samples.index.tolist() == [0, 1, 2, 3, 4, 5]
    if Path(url, "00001.tar").exists():
        assert any(
            "00001.tar: the shard is ignored, since it has no valid marker" in problem for problem in verify(url)
        )


def check_corrupt_marker(url: str, match: str) -> None:
    """Require that the corrupt marker of shard 1 raises, or is reported and its shard skipped on request."""
    for read in (committed, ShardSet):
        with pytest.raises(storage.DamagedError, match=match):
            read(url)
    errors: dict[int, str] = {}
    assert list(committed(url, lambda shard, error: errors.update({shard: str(error)}))) == [0]
    assert list(errors) == [1]
    assert any(sentence.startswith("00001_stats.json: ") for sentence in verify(url))


@pytest.mark.fault
def test_a_truncated_marker_is_an_error(url: str) -> None:
    marker = Path(url, "00001_stats.json")
    text = marker.read_bytes()
    for length in range(0, len(text), 40):
        marker.write_bytes(text[:length])
        check_corrupt_marker(url, r"/00001_stats.json is corrupt")


@pytest.mark.fault
def test_a_marker_of_another_shard_is_an_error(url: str) -> None:
    shutil.copy(Path(url, "00000_stats.json"), Path(url, "00001_stats.json"))
    check_corrupt_marker(url, r"/00001_stats.json belongs to shard 0")


@pytest.mark.fault
def test_a_shard_of_another_dataset_is_an_error(url: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_set(str(other), classes=3, rounds=4, rounds_per_shard=2, owner=storage.identity("another plan"))
    for name in ("00001.tar", "00001.parquet", "00001_stats.json"):
        shutil.copy(other / name, Path(url, name))
    check_corrupt_marker(url, r"/00001_stats.json belongs to a different dataset")
    with pytest.raises(storage.DamagedError, match=r"/00000_stats.json .*belongs to a different run, study or dataset"):
        committed(url, owner=storage.identity("another plan"))


@pytest.mark.fault
@pytest.mark.nightly
def test_every_flipped_bit_in_a_marker_is_an_error(url: str) -> None:
    marker = Path(url, "00001_stats.json")
    text = marker.read_bytes()
    for position in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[position // 8] ^= 1 << position % 8
        marker.write_bytes(flipped)
        with pytest.raises(storage.DamagedError, match=r"/00001_stats.json is corrupt"):
            committed(url)
    check_corrupt_marker(url, r"/00001_stats.json is corrupt")


def test_a_marker_of_a_newer_format_is_an_error(url: str) -> None:
    marker = str(Path(url, "00001_stats.json"))
    storage.write_with_checksum(marker, storage.read_bytes(marker).replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(UserError, match=r"00001_stats.json: format 2"):
        committed(url)


def test_markers_are_read_in_chunks_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.shards.markers.CHUNK", 2)
    write_set(str(tmp_path), classes=2, rounds=5, rounds_per_shard=1)
    chunks: list[int] = []
    read_many = storage.read_many
    monkeypatch.setattr(storage, "read_many", lambda urls, *_: chunks.append(len(urls)) or read_many(urls))
    assert [stats.shard for stats in markers(str(tmp_path))] == [0, 1, 2, 3, 4]
    assert chunks == [2, 2, 1]


def test_stored_markers_of_a_group_replace_the_reads_of_its_shards(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("syncclip.shards.markers.GROUP", 2)
    before, read = committed(url), []
    write_group(url, 0, storage.NOBODY)
    read_many = storage.read_many
    monkeypatch.setattr(storage, "read_many", lambda urls, *rest: read.extend(urls) or read_many(urls, *rest))
    assert committed(url) == before and not read
    assert committed(url, stored=False) == before and len(read) == 2
    (tmp_path / table_name(1)).unlink()
    assert list(committed(url)) == [0], "files are still listed"


def test_corrupt_stored_markers_are_ignored_and_removed_with_a_shard(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("syncclip.shards.markers.GROUP", 2)
    before = committed(url)
    write_group(url, 0, storage.NOBODY)
    group = tmp_path / group_name(0)
    group.write_bytes(group.read_bytes().replace(b'"count": 6', b'"count": 7'))
    assert committed(url) == before
    forget_group(url, 1)
    assert not group.exists()


def test_the_files_of_complete_groups_are_not_listed_on_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.shards.markers.GROUP", 2)
    sizes, listed = storage.sizes, list[str]()

    def list_files(url: str, prefixes: Sequence[str] = ("",)) -> dict[str, int]:
        found = sizes(url, prefixes)
        listed.extend(found)
        return found

    with s3_bucket() as bucket:
        url = f"{bucket}/set"
        write_set(url, classes=2, rounds=15)  # the last group is incomplete
        for group in range(7):
            write_group(url, group, storage.NOBODY)
        every = committed(url)
        monkeypatch.setattr(storage, "sizes", list_files)

        def read(shards: range = range(16)) -> dict[int, ShardStats]:
            listed.clear()
            return {stats.shard: stats for stats in markers_without_listing(url, shards, storage.NOBODY)}

        assert read() == every and not {shard_name(shard) for shard in range(10)} & {*listed}
        assert read(range(3, 5)) == {shard: every[shard] for shard in (3, 4)}
        assert read(range(2, 4)) == {shard: every[shard] for shard in (2, 3)} and not listed
        storage.remove(f"{url}/{shard_name(2)}")
        assert read() == every and 2 not in committed(url), "only `markers` checks the files"
        storage.write_bytes(f"{url}/{group_name(1)}", b"corrupt")
        assert read().keys() == every.keys() - {2}
        with pytest.raises(storage.DamagedError, match="belongs to a different"):
            list(markers_without_listing(url, range(16), "another owner"))
