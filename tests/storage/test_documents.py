"""Documents, tables and tensors are read as written; corrupt ones are one-line errors."""

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


def test_a_document_has_a_checksum_that_its_model_does_not_see(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    assert storage.read_document(str(path), Note, "write it again") is None
    storage.write_document(str(path), Note(images=3))
    assert json.loads(path.read_text()).keys() == {"images", "checksum"}
    assert storage.read_bytes(str(path)) == b'{\n "images": 3\n}\n'
    assert storage.read_document(str(path), Note, "write it again") == Note(images=3)
    path.write_bytes(path.read_bytes().replace(b"3", b"4", 1))
    with pytest.raises(storage.DamagedError, match=r"note.json is corrupt"):
        storage.read_document(str(path), Note, "write it again")


@pytest.mark.parametrize(
    ("text", "reason"),
    [('{"images": "many"}', "images: Input should be"), ('{"shots": 1}', "images: Field")],
)
def test_a_document_of_another_version_is_an_error_with_reason_and_remedy(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "note.json"
    storage.write_with_checksum(str(path), text.encode())
    with pytest.raises(UserError, match=rf"note.json cannot be read .*{reason}.*; write it again$"):
        storage.read_document(str(path), Note, "write it again")


TABLE = pa.table({"label": pa.array([3, 1, 2], pa.int32()), "text": ["a", "b", None]})
SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64())])


def written(table: pa.Table = TABLE) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_table_is_read_unchanged_or_with_a_schema() -> None:
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
    ids=["empty", "not a table", "truncated", "missing column", "other type"],
)
def test_an_invalid_table_is_an_error(data: bytes, schema: pa.Schema | None, reason: str) -> None:
    with pytest.raises((ValueError, OSError), match=reason):
        storage.read_parquet(data, schema)


def test_reading_a_table_starts_no_threads() -> None:
    """A thread of pyarrow that frees the bytes while the interpreter exits aborts the process."""
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
        pytest.skip("requires /proc")
    done = subprocess.run([sys.executable, "-c", program], input=written(), capture_output=True, check=True)
    assert done.stdout == b"0\n"


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
def test_invalid_tensors_are_a_one_line_error(header: object) -> None:
    text = json.dumps(header).encode()
    for data in (struct.pack("<Q", len(text)) + text + b"1234", text, b"", b"\xff" * 8 + text):
        with pytest.raises(UserError, match=r"^a\.safetensors is not a safetensors file \(.*\); remove it$"):
            storage.parse_tensors(data, "a.safetensors", "remove it")


def test_columns_of_a_table_are_read_or_an_error_names_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    storage.write_table(path, pa.table({"label": [1, 2], "other": ["x", "y"]}))
    assert storage.read_table(path, ["label"], "write it again").to_pydict() == {"label": [1, 2]}
    with pytest.raises(UserError, match=r"a\.parquet: unreadable table \(there is no column 'none'\); write it again"):
        storage.read_table(path, ["none"], "write it again")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[40:])
    with pytest.raises(UserError, match=r"b\.parquet"):
        storage.read_table(str(tmp_path / "b.parquet"), ["label"], "write it again")


def test_invalid_text_is_an_error_when_a_table_is_read() -> None:
    invalid = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": invalid}), buffer)
    with pytest.raises(ValueError, match="(?i)utf-?8"):
        storage.read_parquet(buffer.getvalue())
