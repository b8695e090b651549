from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncclip.storage import documents

TABLE = pa.table({"label": pa.array([3, 1, 2], pa.int32()), "text": ["a", "b", None]})
SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64())])


def written(table: pa.Table = TABLE) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_table_is_read_as_it_is_or_by_a_schema() -> None:
    assert documents.read(written()).equals(TABLE)
    assert documents.read(written(), SCHEMA).schema == SCHEMA
    assert documents.read(written(), SCHEMA).to_pylist() == TABLE.to_pylist()
    assert documents.read(written(), SCHEMA, ["label"]).to_pydict() == {"label": [3, 1, 2]}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("data", "schema", "reason"),
    [
        (b"", None, "."),
        (b"PAR1 no", None, "."),
        (written()[:-9], None, "."),
        (written(TABLE.select(["text"])), SCHEMA, "there is no column 'label'"),
        (written(), pa.schema([("text", pa.int64())]), "Failed to parse string"),
    ],
    ids=["nothing", "no table", "cut off", "a column less", "another type"],
)
def test_what_is_no_such_table_is_pyarrows_error(data: bytes, schema: pa.Schema | None, reason: str) -> None:
    with pytest.raises((pa.ArrowException, OSError), match=reason):
        documents.read(data, schema)


def test_no_thread_is_left_to_let_go_of_the_bytes() -> None:
    """A thread of pyarrow's that does so while the interpreter ends aborts the process."""
    program = """
import os, sys
from syncclip.storage import documents
data = sys.stdin.buffer.read()
before = os.listdir("/proc/self/task")
documents.read(data)
print(len(os.listdir("/proc/self/task")) - len(before))
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted where Linux lists them")
    found = subprocess.run([sys.executable, "-c", program], input=written(), capture_output=True, check=True)
    assert found.stdout == b"0\n"
