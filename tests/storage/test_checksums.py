"""A checksummed file says by itself that it was damaged, whichever bit was flipped."""

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
    """The data with each of its bits flipped in turn."""
    found = []
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        found.append(bytes(flipped))
    return found


def undetected(url: str, data: bytes) -> list[bytes]:
    """Those of its flips that are read as if they were whole."""
    found = []
    for flipped in flips(data):
        try:
            found.append(verified_content(url, flipped))
        except storage.DamagedError as error:  # noqa: PERF203  each by itself
            assert str(error).startswith(f"{url} is corrupt")
    return found


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_checksummed_text_is_read_without_its_checksum_and_any_flip_in_it_is_told(kind: str, text: bytes) -> None:
    data = with_checksum(text, kind)
    assert owner_of(data) == NOBODY
    assert verified_content(f"a.{kind}", data) == text
    assert undetected(f"a.{kind}", data) == []


@pytest.mark.parametrize("text", TEXTS["json"])
def test_checksummed_json_is_json_of_the_same_values(text: bytes) -> None:
    found = json.loads(with_checksum(text, "json"))
    holder: dict[str, str] = found if isinstance(found, dict) else dict(found[-1]) if "{" in text.decode() else {}
    if holder:
        assert holder["checksum"].startswith("checksum-sha256:")
    if isinstance(found, dict):
        assert {key: value for key, value in found.items() if key != "checksum"} == json.loads(text)


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place() -> None:
    data = with_checksum(b"name: icons\n", "yaml")
    zeros = b"# checksum-sha256:" + b"0" * 64 + b":" + b"0" * 16 + b"\nname: icons\n"
    assert data == zeros.replace(b"0" * 64, hashlib.sha256(zeros).hexdigest().encode())
    assert yaml.safe_load(data) == {"name": "icons"}


def test_yaml_that_was_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    data = with_checksum(b"name: icons\nevaluation: {split: val}\n", "yaml")
    place = str(tmp_path / "recipe.yaml")
    assert verified_content(place, data) == b"name: icons\nevaluation: {split: val}\n"
    for end in range(1, len(data)):
        with pytest.raises(DamagedError):
            verified_content(place, data[:end])


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_file_of_another_owner_is_reported_by_name(kind: str, text: bytes) -> None:
    mine, theirs = identity("run 1"), identity("run 2")
    data = with_checksum(text, kind, mine)
    assert verified_content(f"a.{kind}", data, mine) == verified_content(f"a.{kind}", data) == text
    assert owner_of(data) == mine
    with pytest.raises(DamagedError, match=f"a.{kind} is corrupt: it belongs to another run"):
        verified_content(f"a.{kind}", data, theirs)
    with pytest.raises(DamagedError, match=f"a.{kind} is corrupt: its checksum does not match"):
        verified_content(f"a.{kind}", data.replace(mine.encode(), theirs.encode()), theirs)


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_file_that_was_cut_short_zeroed_or_extended_is_reported_by_name(kind: str, text: bytes) -> None:
    data = with_checksum(text, kind)
    cut = [data[:length] for length in range(len(data))]
    for damaged in (*cut, bytes(len(data)), data[:-20] + bytes(20), data + b"x", data + bytes(512)):
        with pytest.raises(DamagedError, match=f"a.{kind} is corrupt"):
            verified_content(f"a.{kind}", damaged)


@pytest.mark.parametrize("tensors", [TENSORS, {}], ids=["two tensors", "none"])
def test_checksummed_tensors_are_the_same_tensors_and_any_flip_is_told(tensors: dict[str, Any], tmp_path: Path) -> None:
    place = tmp_path / "prompts.safetensors"
    storage.write_with_checksum(str(place), safetensors.numpy.save(tensors))
    found = safetensors.numpy.load(storage.read_bytes(str(place)))
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)
    assert int.from_bytes(place.read_bytes()[:8], "little") % 8 == 0
    assert undetected(str(place), place.read_bytes()) == []


def test_a_checksummed_table_opens_in_pyarrow_and_pandas_and_any_flip_is_told(tmp_path: Path) -> None:
    place = tmp_path / "study.parquet"
    frame = pd.DataFrame({"cell": ["a", "b"], "hm": [1.5, None]})
    table = pa.Table.from_pandas(frame, preserve_index=False)
    storage.write_table(str(place), table)
    assert pq.read_table(place).equals(table)
    assert pd.read_parquet(place).equals(frame)
    assert storage.read_parquet(storage.read_bytes(str(place))).equals(table)
    assert undetected(str(place), place.read_bytes()) == []


def test_long_files_have_their_checksum_at_an_end() -> None:
    long = b'{"text": "%s"}' % (b"x" * 300_000)
    assert verified_content("a.json", with_checksum(long, "json")) == long
    tensors = with_checksum(safetensors.numpy.save({"w": np.ones(100_000, np.float32)}), "safetensors")
    assert np.array_equal(safetensors.numpy.load(verified_content("a.safetensors", tensors))["w"], np.ones(100_000))


@pytest.mark.parametrize("text", [b"", b'{"sha256": "%s"}' % (b"a" * 64), b"sha256:%s" % (b"0" * 64), b"\0" * 100_000])
def test_a_file_without_a_checksum_is_only_read_where_a_user_may_have_written_it(text: bytes) -> None:
    assert owner_of(text) is None
    assert verified_content("a.json", text, required=False) == text
    with pytest.raises(DamagedError, match="a.json is corrupt: its checksum is missing"):
        verified_content("a.json", text)


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_a_flip_in_the_mark_does_not_make_it_a_file_that_a_user_wrote(kind: str) -> None:
    data = with_checksum(TEXTS[kind][0], kind)
    start = data.index(MARK)
    for place in range(8 * start, 8 * (start + len(MARK))):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedError):
            verified_content(f"a.{kind}", bytes(changed), required=False)


def test_a_file_of_another_kind_is_read_as_it_is_whatever_is_in_it() -> None:
    text = b"a caption: checksum-sha256:" + b"0" * 64 + b" and more"
    assert verified_content("00000.tar", text) == verified_content("caption.txt", text) == text
    with pytest.raises(DamagedError):
        verified_content("captions.json", text, required=False)


class Note(Settings):
    images: int


def test_documents_are_checksummed_and_strict_models_do_not_see_it(tmp_path: Path) -> None:
    place = tmp_path / "note.json"
    storage.write_document(str(place), Note(images=3))
    assert json.loads(place.read_text()).keys() == {"images", "checksum"}
    assert storage.read_document(str(place), Note, "write it anew") == Note(images=3)
    place.write_bytes(place.read_bytes().replace(b"3", b"4", 1))
    with pytest.raises(storage.DamagedError, match=r"note.json is corrupt"):
        storage.read_document(str(place), Note, "write it anew")


def test_of_many_files_a_damaged_one_is_raised_or_reported(tmp_path: Path) -> None:
    for name in "ab":
        storage.write_document(str(tmp_path / f"{name}.json"), Note(images=3))
    (tmp_path / "b.json").write_bytes((tmp_path / "b.json").read_bytes().replace(b"3", b"2", 1))
    urls = [f"{tmp_path}/{name}.json" for name in "abc"]
    with pytest.raises(storage.DamagedError, match="b.json"):
        storage.read_many(urls)
    told: list[str] = []
    assert storage.read_many(urls, lambda url, _: told.append(url)) == {urls[0]: b'{\n "images": 3\n}\n'}
    assert told == [urls[1]]
