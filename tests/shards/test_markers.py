"""Which shards exist."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import committed, markers, sample_key, shard_name, stats_name, table_name
from syncclip.shards.reader import ShardSet
from tests.shards.sets import verify, write_set


@pytest.fixture
def url(tmp_path: Path) -> str:
    write_set(str(tmp_path), classes=3, rounds=4, rounds_per_shard=2)
    return str(tmp_path)


def test_names_are_the_ones_that_other_tools_expect() -> None:
    assert (shard_name(7), stats_name(7), table_name(7)) == ("00007.tar", "00007_stats.json", "00007.parquet")
    assert sample_key(17) == "000000017"
    assert shard_name(123456) == "123456.tar"


def test_a_sound_set_has_all_its_shards_and_no_problem(url: str) -> None:
    assert list(committed(url)) == [0, 1]
    assert verify(url) == []


def test_a_missing_folder_holds_no_shard(tmp_path: Path) -> None:
    assert committed(str(tmp_path / "nowhere")) == {}


def spoil(url: str, how: str) -> None:
    marker, tar = Path(url, "00001_stats.json"), Path(url, "00001.tar")
    match how:
        case "no marker":
            marker.unlink()
        case "short tar":
            tar.write_bytes(tar.read_bytes()[:-512])
        case "long tar":
            tar.write_bytes(tar.read_bytes() + bytes(512))
        case "no tar":
            tar.unlink()
        case "no table":
            Path(url, "00001.parquet").unlink()


@pytest.mark.fault
@pytest.mark.parametrize(
    "how",
    [
        "no marker",
        "short tar",
        "long tar",
        "no tar",
        "no table",
    ],
)
def test_a_shard_without_a_valid_marker_does_not_exist(url: str, how: str) -> None:
    spoil(url, how)
    assert list(committed(url)) == [0]
    assert ShardSet(url).samples.index.tolist() == [0, 1, 2, 3, 4, 5]
    if how != "no tar":
        assert any("00001.tar: no valid marker" in problem for problem in verify(url))


def damaged_marker(url: str, match: str) -> None:
    """The damaged marker of shard 1 is reported by name, and its shard left out only where the caller asks for that."""
    with pytest.raises(storage.DamagedError, match=match):
        committed(url)
    with pytest.raises(storage.DamagedError, match=match):
        ShardSet(url)
    errors: dict[int, str] = {}
    assert list(committed(url, lambda shard, error: errors.update({shard: str(error)}))) == [0]
    assert list(errors) == [1]
    assert any(sentence.startswith("00001_stats.json: ") for sentence in verify(url))


@pytest.mark.fault
def test_every_cut_of_a_marker_is_an_error_that_names_it(url: str) -> None:
    marker = Path(url, "00001_stats.json")
    text = marker.read_bytes()
    for length in range(0, len(text), 7):
        marker.write_bytes(text[:length])
        damaged_marker(url, r"/00001_stats.json is corrupt: its checksum (is missing|does not match)")


@pytest.mark.fault
def test_the_marker_of_another_shard_is_an_error_that_names_it(url: str) -> None:
    shutil.copy(Path(url, "00000_stats.json"), Path(url, "00001_stats.json"))
    damaged_marker(url, r"/00001_stats.json belongs to shard 0")


@pytest.mark.fault
def test_a_shard_of_another_set_is_an_error_that_names_it(url: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_set(str(other), classes=3, rounds=4, rounds_per_shard=2, owner=storage.identity("another plan"))
    for name in ("00001.tar", "00001.parquet", "00001_stats.json"):
        shutil.copy(other / name, Path(url, name))
    damaged_marker(url, r"/00001_stats.json belongs to another set")
    with pytest.raises(storage.DamagedError, match=r"/00000_stats.json .*belongs to another run, study or set"):
        committed(url, owner=storage.identity("another plan"))


@pytest.mark.fault
@pytest.mark.nightly
def test_every_flip_in_a_marker_is_told_by_its_name_and_never_loses_or_changes_an_image(url: str) -> None:
    marker = Path(url, "00001_stats.json")
    text = marker.read_bytes()
    for place in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[place // 8] ^= 1 << place % 8
        marker.write_bytes(flipped)
        with pytest.raises(storage.DamagedError, match=r"/00001_stats.json is corrupt"):
            committed(url)
    told: dict[int, str] = {}
    assert list(committed(url, lambda shard, error: told.update({shard: str(error)}))) == [0]
    assert list(told) == [1]
    assert any(sentence.startswith("00001_stats.json: ") for sentence in verify(url))


def test_a_marker_of_a_newer_format_is_refused(url: str) -> None:
    marker = Path(url, "00001_stats.json")
    storage.write_with_checksum(str(marker), storage.read_bytes(str(marker)).replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(UserError, match=r"00001_stats.json: format 2"):
        committed(url)


def test_markers_are_read_in_chunks_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.shards.markers.CHUNK", 2)
    write_set(str(tmp_path), classes=2, rounds=5, rounds_per_shard=1)
    read: list[int] = []
    many = storage.read_many
    monkeypatch.setattr(storage, "read_many", lambda urls, *_: read.append(len(urls)) or many(urls))
    assert [stats.shard for stats in markers(str(tmp_path))] == [0, 1, 2, 3, 4]
    assert read == [2, 2, 1]
