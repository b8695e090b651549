"""The bytes of a shard, and third-party readers."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import committed
from syncclip.shards.writer import write_shard
from tests.shards.readers import read_by_open_clip
from tests.shards.sets import index_of, jpeg, sample, write_set


def test_the_bytes_do_not_depend_on_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample(index, 3) for index in range(6)]
    first = write_shard(str(tmp_path / "first"), 0, samples, {"blank": 2}, seconds=1.0)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    second = write_shard(str(tmp_path / "second"), 0, samples, {"blank": 2}, seconds=9.0)
    for name in ("00000.tar", "00000.parquet"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert first.model_dump(exclude={"seconds"}) == second.model_dump(exclude={"seconds"})


def test_the_marker_describes_the_shard(tmp_path: Path) -> None:
    stats = write_shard(str(tmp_path), 3, [sample(i, 3) for i in (9, 10, 12, 13)], {"blank": 2}, seconds=1.25)
    tar = (tmp_path / "00003.tar").read_bytes()
    assert stats.model_dump() == {
        "shard": 3,
        "count": 4,
        "bytes": len(tar),
        "sha256": hashlib.sha256(tar).hexdigest(),
        "table_sha256": hashlib.sha256((tmp_path / "00003.parquet").read_bytes()).hexdigest(),
        "per_class": {0: 2, 1: 2},
        "rejects": {"blank": 2},
        "seconds": 1.25,
        "format": 1,
        "owner": "0" * 16,
    }
    assert committed(str(tmp_path)) == {3: stats}


def test_the_table_contains_the_images_offsets_in_the_tar(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=2, rounds_per_shard=2)
    tar = (tmp_path / "00000.tar").read_bytes()
    rows = pq.read_table(tmp_path / "00000.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(6))
    for row in rows:
        assert tar[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]] == jpeg(row["index"])
        assert json.loads(row["provenance"]) == {"seed": row["index"], "a": None}


def test_names_and_order_of_tar_members(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=2, rounds=1)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames() == [f"00000000{i}.{name}" for i in range(2) for name in ("cls", "jpg", "json", "txt")]
        assert {member.mtime for member in tar} == {0}


class Killed(BaseException):
    """Simulates the end of the process."""


@pytest.mark.fault
@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_writer_killed_before_the_marker_leaves_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    calls: list[str] = []

    def killed_after(write: Callable[..., None]) -> Callable[..., None]:
        def write_or_die(url: str, data: bytes, **options: str) -> None:
            if len(calls) == written:
                raise Killed
            calls.append(url)
            write(url, data, **options)

        return write_or_die

    for name in ("write_bytes", "write_with_checksum"):
        monkeypatch.setattr(storage, name, killed_after(getattr(storage, name)))
    with pytest.raises(Killed):
        write_set(str(tmp_path), classes=2, rounds=1)
    assert committed(str(tmp_path)) == {}
    monkeypatch.undo()
    write_set(str(tmp_path), classes=2, rounds=1)
    assert list(committed(str(tmp_path))) == [0]


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot write .*x/00000.tar"):
        write_set(str(tmp_path / "x"), classes=2, rounds=1)


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=4, rounds_per_shard=2)
    samples = list(webdataset.WebDataset(str(tmp_path / "{00000..00001}.tar"), shardshuffle=False).decode("pil"))
    assert [s["__key__"] for s in samples] == [f"{i:09d}" for i in range(12)]
    assert [s["cls"] for s in samples] == [0, 1, 2] * 4
    assert [index_of(s["jpg"]) for s in samples] == list(range(12))
    assert samples[4]["txt"] == "a photo of a class 1, größe"
    assert samples[4]["json"] == {"seed": 4, "a": None}


@pytest.mark.slow
@pytest.mark.nightly
def test_open_clips_training_loader_reads_the_shards(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=3, rounds=4, rounds_per_shard=2)
    read = read_by_open_clip(str(tmp_path / "{00000..00001}.tar"), 12, tmp_path / "webdataset")
    assert sorted(read) == [(index, f"a photo of a class {index % 3}, größe") for index in range(12)]
