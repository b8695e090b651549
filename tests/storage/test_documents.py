"""Documents and tables: read as they were written, refused by name where they are damaged."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncclip import storage
from syncclip.core.settings import Settings, UserError


class Note(Settings):
    images: int


def test_what_is_written_is_read(tmp_path: Path) -> None:
    place = str(tmp_path / "note.json")
    assert storage.read_document(place, Note, "write it anew") is None
    storage.write_document(place, Note(images=3))
    assert storage.read_bytes(place) == b'{\n "images": 3\n}\n'
    assert storage.read_document(place, Note, "write it anew") == Note(images=3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('{"images": "many"}', "images: Input should be"), ('{"shots": 1}', "images: Field")],
)
def test_one_of_another_version_is_named_with_the_reason_and_the_remedy(
    text: str, complaint: str, tmp_path: Path
) -> None:
    place = tmp_path / "note.json"
    storage.write_with_checksum(str(place), text.encode())
    with pytest.raises(UserError, match=rf"note.json cannot be read .*{complaint}.*; write it anew$"):
        storage.read_document(str(place), Note, "write it anew")


TABLE = pa.table({"label": pa.array([3, 1, 2], pa.int32()), "text": ["a", "b", None]})
SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64())])


def written(table: pa.Table = TABLE) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_table_is_read_as_it_is_or_by_a_schema() -> None:
    assert storage.read_parquet(written()).equals(TABLE)
    assert storage.read_parquet(written(), SCHEMA).schema == SCHEMA
    assert storage.read_parquet(written(), SCHEMA).to_pylist() == TABLE.to_pylist()
    assert storage.read_parquet(written(), SCHEMA, ["label"]).to_pydict() == {"label": [3, 1, 2]}


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
def test_what_is_no_such_table_is_refused(data: bytes, schema: pa.Schema | None, reason: str) -> None:
    with pytest.raises((ValueError, OSError), match=reason):
        storage.read_parquet(data, schema)


def test_no_thread_is_left_to_let_go_of_the_bytes() -> None:
    """A thread of pyarrow's that does so while the interpreter ends aborts the process."""
    program = """
import os, sys
import pyarrow.parquet
from syncclip.storage import read_parquet
data = sys.stdin.buffer.read()
before = os.listdir("/proc/self/task")
read_parquet(data)
print(len(os.listdir("/proc/self/task")) - len(before))
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted where Linux lists them")
    found = subprocess.run([sys.executable, "-c", program], input=written(), capture_output=True, check=True)
    assert found.stdout == b"0\n"


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        [],
    ],
)
def test_tensors_that_cannot_be_are_told_by_the_files_name(header: object) -> None:
    text = json.dumps(header).encode()
    for data in (struct.pack("<Q", len(text)) + text + b"1234", text, b"", b"\xff" * 8 + text):
        with pytest.raises(UserError, match=r"^a\.safetensors is not a safetensors file \(.*\); remove it$"):
            storage.parse_tensors(data, "a.safetensors", "remove it")


def test_a_table_is_read_by_its_columns_or_told_by_its_name(tmp_path: Path) -> None:
    place = str(tmp_path / "a.parquet")
    storage.write_table(place, pa.table({"label": [1, 2], "other": ["x", "y"]}))
    assert storage.read_table(place, ["label"], "make it anew").to_pydict() == {"label": [1, 2]}
    with pytest.raises(UserError, match=r"a\.parquet: unreadable table \(there is no column 'none'\); make it anew"):
        storage.read_table(place, ["none"], "make it anew")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[40:])
    with pytest.raises(UserError, match=r"b\.parquet"):
        storage.read_table(str(tmp_path / "b.parquet"), ["label"], "make it anew")


def test_a_text_column_that_holds_no_text_is_found_when_the_table_is_read() -> None:
    false = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": false}), buffer)
    with pytest.raises(ValueError, match="(?i)utf-?8"):
        storage.read_parquet(buffer.getvalue())
