"""A table is only read if it matches the checksum in its marker."""

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
    """A set of two shards of six images."""
    write_set(str(tmp_path / "set"), classes=3, rounds=4, rounds_per_shard=2)
    return tmp_path / "set"


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
    assert any("00000.parquet" in line and "its checksum differs" in line for line in logged)
    assert any(sentence.startswith("00000.parquet: unreadable table: its checksum") for sentence in verify(str(folder)))
    with pytest.raises(UserError, match=r"/00000.parquet: unreadable table: its checksum"):
        read_table(str(folder), 0, committed(str(folder))[0].table_sha256)


@pytest.mark.fault
@pytest.mark.nightly
def test_every_flip_in_a_table_is_found(folder: Path) -> None:
    digest = committed(str(folder))[0].table_sha256
    data = (folder / "00000.parquet").read_bytes()
    assert parse_table(data, digest).num_rows == 6
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ValueError, match="its checksum differs"):
            parse_table(bytes(flipped), digest)


@pytest.mark.fault
def test_an_index_is_that_of_its_key_whatever_the_digest_says(folder: Path) -> None:
    digest = rewrite(folder / "00000.parquet", "index", [1, 0, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="an index contradicts its key"):
        parse_table((folder / "00000.parquet").read_bytes(), digest)
