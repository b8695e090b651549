"""A table is read where it is known to be right: by its marker's digest, or by its tar."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.shards.tables import CHECKED, parse_table, read_table, table_digests
from tests.shards.sets import verify, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two shards of six images."""
    write_set(str(tmp_path / "set"), classes=3, rounds=4, rounds_per_shard=2)
    return tmp_path / "set"


def make_old(folder: Path) -> None:
    """Rewrite the markers as earlier versions wrote them: no seal, and no digest of the table."""
    for place in folder.glob("*_stats.json"):
        marker = json.loads(place.read_text())
        del marker["table_sha256"], marker["seal"]
        place.write_text(json.dumps(marker, indent=1))


def rewrite(place: Path, column: str, values: list[int]) -> str:
    """Exchange a column of a table, as a flip that still parses would; the digest of the file."""
    table = pq.read_table(place)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.int64())), place)
    return hashlib.sha256(place.read_bytes()).hexdigest()


@pytest.mark.fault
@pytest.mark.parametrize(("column", "values"), [("index", [1, 0, 2, 3, 4, 5]), ("jpg_offset", [0, 0, 0, 0, 0, 0])])
def test_a_table_that_was_changed_is_named_and_none_of_its_images_is_used(
    folder: Path, column: str, values: list[int], logged: list[str]
) -> None:
    rewrite(folder / "00000.parquet", column, values)
    images = ShardSet(str(folder))
    assert images.samples.index.tolist() == [6, 7, 8, 9, 10, 11]
    assert images.corruption.names == {f"{folder}/00000.parquet": 6}
    assert any("00000.parquet" in line and "not those that were written" in line for line in logged)
    assert any(sentence.startswith("00000.parquet: unreadable table: its bytes") for sentence in verify(str(folder)))
    with pytest.raises(UserError, match=r"/00000.parquet: unreadable table: its bytes are not those"):
        read_table(str(folder), 0, table_digests(str(folder), committed(str(folder)))[0])


@pytest.mark.fault
def test_every_flip_in_a_table_is_found(folder: Path) -> None:
    digest = table_digests(str(folder), committed(str(folder)))[0]
    data = (folder / "00000.parquet").read_bytes()
    assert parse_table(data, digest).num_rows == 6
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="not those that were written"):
            parse_table(bytes(flipped), digest)


@pytest.mark.fault
def test_an_index_is_that_of_its_key_whatever_the_digest_says(folder: Path) -> None:
    digest = rewrite(folder / "00000.parquet", "index", [1, 0, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="an index in it is not that of its key"):
        parse_table((folder / "00000.parquet").read_bytes(), digest)


def test_a_set_of_an_earlier_version_is_compared_with_its_tars_once(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(folder)
    assert len(ShardSet(str(folder))) == 12
    said = capsys.readouterr().err
    assert said == f"{folder}: comparing 2 tables of an earlier version with the tars, this once\n"
    monkeypatch.setattr(storage, "open_read", None)  # no tar is opened any more
    assert len(ShardSet(str(folder))) == 12
    assert capsys.readouterr().err == ""
    assert verify(str(folder)) == []
    digest = hashlib.sha256((folder / "00001.parquet").read_bytes()).hexdigest()
    assert json.loads((folder / CHECKED).read_text())["tables"]["1"] == digest


@pytest.mark.fault
@pytest.mark.parametrize(
    ("column", "values"),
    [("jpg_offset", [512] * 6), ("jpg_size", [1] * 6), ("label", [2, 1, 0, 0, 1, 2]), ("index", [1, 0, 2, 3, 4, 5])],
)
def test_a_damaged_table_of_an_earlier_version_is_named_by_what_its_tar_says(
    folder: Path, column: str, values: list[int]
) -> None:
    make_old(folder)
    rewrite(folder / "00000.parquet", column, values)
    for _ in range(2):  # what doesn't fit is not remembered as if it did
        images = ShardSet(str(folder))
        assert images.samples.index.tolist() == [6, 7, 8, 9, 10, 11]
        assert images.corruption.names == {f"{folder}/00000.parquet": 6}
    assert verify(str(folder))


@pytest.mark.fault
def test_after_the_comparison_a_flip_is_found_by_the_digest(folder: Path) -> None:
    make_old(folder)
    ShardSet(str(folder))
    rewrite(folder / "00000.parquet", "jpg_offset", [512] * 6)
    assert ShardSet(str(folder)).corruption.names == {f"{folder}/00000.parquet": 6}


def test_a_set_that_grew_by_this_version_keeps_its_old_shards(folder: Path, tmp_path: Path) -> None:
    for name in ("00001.tar", "00001.parquet", "00001_stats.json"):
        shutil.move(folder / name, tmp_path / name)
    make_old(folder)
    for name in ("00001.tar", "00001.parquet", "00001_stats.json"):
        shutil.move(tmp_path / name, folder / name)
    assert len(ShardSet(str(folder))) == 12
    assert list(json.loads((folder / CHECKED).read_text())["tables"]) == ["0"]


@pytest.mark.fault
def test_where_nothing_may_be_written_it_is_compared_each_time(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old(folder)

    def refuse(*_: object) -> None:
        raise UserError("cannot write there")

    monkeypatch.setattr(storage, "write_document", refuse)
    for _ in range(2):
        assert len(ShardSet(str(folder))) == 12
        assert "comparing 2 tables" in capsys.readouterr().err
