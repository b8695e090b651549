"""Verification of a shard's table by the checksum in its marker."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncclip.core.settings import UserError
from syncclip.shards.markers import committed
from syncclip.shards.reader import ShardSet
from syncclip.shards.tables import parse_table, read_table
from tests.shards.sets import verify, write_set


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two shards with six images each."""
    write_set(str(tmp_path / "set"), classes=3, rounds=4, rounds_per_shard=2)
    return tmp_path / "set"


def replace_column(path: Path, column: str, values: list[int]) -> str:
    """Replace a column of a table; return the file's checksum."""
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.int64())), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.fault
@pytest.mark.parametrize(("column", "values"), [("index", [1, 0, 2, 3, 4, 5]), ("jpg_offset", [0, 0, 0, 0, 0, 0])])
def test_a_modified_table_is_reported_and_its_images_are_skipped(
    folder: Path, column: str, values: list[int], logged: list[str]
) -> None:
    replace_column(folder / "00000.parquet", column, values)
    images = ShardSet(str(folder))
    assert images.samples.index.tolist() == [6, 7, 8, 9, 10, 11]
    assert images.corruption.names == {f"{folder}/00000.parquet": 6}
    assert any("00000.parquet" in line and "its checksum does not match" in line for line in logged)
    assert any(sentence.startswith("00000.parquet: unreadable table: its checksum") for sentence in verify(str(folder)))
    with pytest.raises(UserError, match=r"/00000.parquet: unreadable table: its checksum"):
        read_table(str(folder), 0, committed(str(folder))[0].table_sha256)


@pytest.mark.fault
@pytest.mark.nightly
def test_every_flipped_bit_in_a_table_is_an_error(folder: Path) -> None:
    sha256 = committed(str(folder))[0].table_sha256
    data = (folder / "00000.parquet").read_bytes()
    assert parse_table(data, sha256).num_rows == 6
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ValueError, match="its checksum does not match"):
            parse_table(bytes(flipped), sha256)


@pytest.mark.fault
def test_an_index_that_contradicts_its_key_is_an_error(folder: Path) -> None:
    sha256 = replace_column(folder / "00000.parquet", "index", [1, 0, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="a sample's index does not match its key"):
        parse_table((folder / "00000.parquet").read_bytes(), sha256)
