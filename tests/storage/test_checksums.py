"""A checksum inside a file detects every flipped bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import yaml

from syncclip import storage
from syncclip.core.settings import Settings
from syncclip.storage.checksums import MARK, NOBODY, DamagedError, identity, owner_of, verified_content, with_checksum

TENSORS = {"context": np.arange(6, dtype=np.float32).reshape(2, 3), "shift": np.zeros(1, np.float16)}
TEXTS = {
    "json": [
        b'{\n "images": 3\n}\n',
        b'{"step":1}',
        b"{}",
        b"[]",
        b'[\n {\n  "configuration": "a"\n }\n]\n',
        b'{"a": [{"b": 1}]}',
        '{"name": "é"}\n'.encode(),
    ],
    "yaml": [b"name: icons\nseed: 1\n", b"", b"extends: null\n"],
    "md": [b"# A table\n\n| a |\n"],
    "html": [b"<!doctype html>\n<html></html>\n"],
}
CASES = [(kind, text) for kind, texts in TEXTS.items() for text in texts]


def flips(data: bytes) -> list[bytes]:
    """Return the data with each of its bits flipped in turn."""
    flipped = []
    for bit in range(8 * len(data)):
        copy = bytearray(data)
        copy[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(copy))
    return flipped


def undetected(url: str, data: bytes) -> list[bytes]:
    """Return the content of those flips that are not reported."""
    contents = []
    for flipped in flips(data):
        try:
            contents.append(verified_content(url, flipped))
        except storage.DamagedError as error:  # noqa: PERF203
            assert str(error).startswith(f"{url} is corrupt")
    return contents


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_text_is_read_without_its_checksum_and_flips_are_reported(kind: str, text: bytes) -> None:
    data = with_checksum(text, kind)
    assert owner_of(data) == NOBODY
    assert verified_content(f"a.{kind}", data) == text
    assert undetected(f"a.{kind}", data) == []


@pytest.mark.parametrize("text", TEXTS["json"])
def test_json_with_a_checksum_has_the_same_values(text: bytes) -> None:
    values = json.loads(with_checksum(text, "json"))
    last = values if isinstance(values, dict) else values[-1]
    checksum = last.pop("checksum") if isinstance(last, dict) else values.pop()
    assert checksum.startswith("checksum-sha256:")
    assert values == json.loads(text)


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place() -> None:
    data = with_checksum(b"name: icons\n", "yaml")
    zeros = b"# checksum-sha256:" + b"0" * 64 + b":" + b"0" * 16 + b"\nname: icons\n"
    assert data == zeros.replace(b"0" * 64, hashlib.sha256(zeros).hexdigest().encode())
    assert yaml.safe_load(data) == {"name": "icons"}


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_file_of_another_owner_is_reported(kind: str, text: bytes) -> None:
    own, other = identity("run 1"), identity("run 2")
    data = with_checksum(text, kind, own)
    assert verified_content(f"a.{kind}", data, own) == verified_content(f"a.{kind}", data) == text
    assert owner_of(data) == own
    with pytest.raises(DamagedError, match=f"a.{kind} is corrupt: it belongs to a different run"):
        verified_content(f"a.{kind}", data, other)
    with pytest.raises(DamagedError, match=f"a.{kind} is corrupt: its checksum does not match"):
        verified_content(f"a.{kind}", data.replace(own.encode(), other.encode()), other)


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_truncated_zeroed_or_extended_file_is_reported(kind: str, text: bytes) -> None:
    data = with_checksum(text, kind)
    truncated = [data[:length] for length in range(len(data))]
    for corrupt in (*truncated, bytes(len(data)), data[:-20] + bytes(20), data + b"x", data + bytes(512)):
        with pytest.raises(DamagedError, match=f"a.{kind} is corrupt"):
            verified_content(f"a.{kind}", corrupt)


@pytest.mark.parametrize("tensors", [TENSORS, {}], ids=["two tensors", "none"])
def test_tensors_with_a_checksum_are_unchanged_and_flips_are_reported(tensors: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "prompts.safetensors"
    storage.write_with_checksum(str(path), safetensors.numpy.save(tensors))
    loaded = safetensors.numpy.load(storage.read_bytes(str(path)))
    assert loaded.keys() == tensors.keys()
    assert all(np.array_equal(loaded[name], tensors[name]) for name in tensors)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    assert undetected(str(path), path.read_bytes()) == []


def test_a_table_with_a_checksum_is_readable_by_libraries_and_flips_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "study.parquet"
    frame = pd.DataFrame({"cell": ["a", "b"], "hm": [1.5, None]})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    storage.write_table(str(path), table)
    assert pq.read_table(path).equals(table)
    assert pd.read_parquet(path).equals(frame)
    assert storage.read_parquet(storage.read_bytes(str(path))).equals(table)
    assert undetected(str(path), path.read_bytes()) == []


def test_the_checksum_of_a_long_file_is_at_an_end() -> None:
    long = b'{"text": "%s"}' % (b"x" * 300_000)
    assert verified_content("a.json", with_checksum(long, "json")) == long
    tensors = with_checksum(safetensors.numpy.save({"w": np.ones(100_000, np.float32)}), "safetensors")
    assert np.array_equal(safetensors.numpy.load(verified_content("a.safetensors", tensors))["w"], np.ones(100_000))


@pytest.mark.parametrize("text", [b"", b'{"sha256": "%s"}' % (b"a" * 64), b"sha256:%s" % (b"0" * 64), b"\0" * 100_000])
def test_a_file_without_a_checksum_is_reported_unless_it_is_optional(text: bytes) -> None:
    assert owner_of(text) is None
    assert verified_content("a.json", text, required=False) == text
    with pytest.raises(DamagedError, match="a.json is corrupt: its checksum is missing"):
        verified_content("a.json", text)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_flip_in_the_mark_is_reported_if_checksums_are_optional(kind: str) -> None:
    data = with_checksum(TEXTS[kind][0], kind)
    start = data.index(MARK)
    for flipped in flips(data)[8 * start : 8 * (start + len(MARK))]:
        with pytest.raises(DamagedError):
            verified_content(f"a.{kind}", flipped, required=False)


def test_other_file_types_are_read_unchanged() -> None:
    text = b"a caption: checksum-sha256:" + b"0" * 64 + b" and more"
    assert verified_content("00000.tar", text) == verified_content("caption.txt", text) == text
    with pytest.raises(DamagedError):
        verified_content("captions.json", text, required=False)


class Note(Settings):
    images: int


def test_a_corrupt_one_of_many_files_is_raised_or_reported(tmp_path: Path) -> None:
    for name in "ab":
        storage.write_document(str(tmp_path / f"{name}.json"), Note(images=3))
    (tmp_path / "b.json").write_bytes((tmp_path / "b.json").read_bytes().replace(b"3", b"2", 1))
    urls = [f"{tmp_path}/{name}.json" for name in "abc"]
    with pytest.raises(storage.DamagedError, match="b.json"):
        storage.read_many(urls)
    reported: list[str] = []
    assert storage.read_many(urls, lambda url, _: reported.append(url)) == {urls[0]: b'{\n "images": 3\n}\n'}
    assert reported == [urls[1]]
