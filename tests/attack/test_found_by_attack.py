"""Regression tests of defects that attacks revealed."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from PIL import Image

from syncclip import storage
from syncclip.cli import app
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.loading import clip_words, read_dataset
from syncclip.datasets.packed import pack
from syncclip.storage.checksums import with_checksum
from syncclip.storage.cleanup import part_of
from syncclip.synthetic_sets.imported import ImportedSet
from tests.shards.sets import write_set


def _packed(tmp_path: Path) -> Path:
    for label, name in enumerate(("red", "green", "blue", "grey")):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), (number * 20, label * 60, 0)).save(tmp_path / "mine" / name / f"{number}.png")
    pack(read_dataset(DatasetSettings(name=str(tmp_path / "mine"))), str(tmp_path / "packed"), [1, 2], [1, 2, 3])
    return tmp_path / "packed"


def test_a_missing_list_of_the_training_split_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _packed(tmp_path)
    (folder / "train.parquet").unlink()
    with pytest.raises(UserError, match=r"train\.parquet"):
        load_dataset(DatasetSettings(name=str(folder))).few_shot(1, 3)
    assert app.run(["verify", str(folder)]) == 1
    assert "train.parquet" in capsys.readouterr().out


def test_a_missing_split_and_missing_shards_are_reported(tmp_path: Path) -> None:
    folder = _packed(tmp_path)
    shutil.rmtree(folder / "val")
    assert app.run(["verify", str(folder)]) == 1
    record = ImportedSet(source="x", dataset="d", classnames=("a", "b"), counts=(1, 1), shard_size=2, content="x")
    storage.write_document(str(tmp_path / "set/imported.json"), record)
    for command in (["verify"], ["shards", "verify"]):
        assert app.run([*command, str(tmp_path / "set")]) == 1


def test_exchanged_shards_of_an_imported_set_are_reported(tmp_path: Path) -> None:
    write_set(str(tmp_path), 2, 1)
    record = ImportedSet(source="x", dataset="d", classnames=("a", "b"), counts=(1, 1), shard_size=2, content="x")
    storage.write_document(str(tmp_path / "imported.json"), record)
    assert app.run(["verify", str(tmp_path)]) == 1


@pytest.mark.parametrize("change", [{"shard_size": 0}, {"counts": []}, {"counts": [10**9, 1]}, {"counts": [-1, 1]}])
def test_an_invalid_record_of_an_import_is_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    write_set(str(tmp_path), 2, 1)
    record = {
        "source": "x",
        "dataset": "d",
        "classnames": ["a", "b"],
        "counts": [1, 1],
        "shard_size": 2,
        "content": "x",
    }
    storage.write_with_checksum(str(tmp_path / "imported.json"), json.dumps(record | change).encode())
    assert app.run(["verify", str(tmp_path)]) == 1
    assert app.run(["shards", "export", str(tmp_path), "--to", "folder", "--out", str(tmp_path / "out")]) == 2


def test_operating_system_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("plan.json")
        assert app.run(["plan", "plan.json"]) == 2
        assert app.run(["verify", "."]) == 1
    assert app.run(["plan", "/proc/self/mem"]) == 2  # EIO
    write_set("set", 2, 1)
    assert app.run(["shards", "show", "set", "--save", "x" * 250]) == 2
    assert "too long" in capsys.readouterr().err


def test_a_file_named_by_a_superscript_digit_is_not_a_shard(tmp_path: Path) -> None:
    write_set(str(tmp_path), 2, 1)
    (tmp_path / "²".join(["", ".tar"])).write_bytes(b"x")
    assert app.run(["verify", str(tmp_path)]) == 0


@pytest.mark.parametrize("pair", [("MD80", "MD 80"), ("t-shirt", "t - shirt"), ("Boeing 737", "Boeing 7 3 7")])
def test_names_of_equal_tokens_are_equal(pair: tuple[str, str]) -> None:
    assert clip_words(pair[0]) == clip_words(pair[1])


def test_partial_files_of_a_packed_dataset_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _packed(tmp_path)
    part = part_of(folder / "train/00000.tar")
    part.touch()
    monkeypatch.setattr("syncclip.storage.cleanup.is_alive", lambda _: False)
    pack(read_dataset(DatasetSettings(name=str(tmp_path / "mine"))), str(folder), [1, 2], [1, 2, 3])
    assert not part.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", {"classnames": 5}),
        ("results.json", {"base": 1.0, "per_class": ["x"]}),
        ("results.json", {"base": 1.0, "all_classes_novel": 10**400}),
    ],
)
def test_a_report_of_invalid_files_raises_no_traceback(tmp_path: Path, name: str, content: dict[str, object]) -> None:
    (tmp_path / name).write_bytes(with_checksum(json.dumps(content).encode() + b"\n", "json"))
    assert app.run(["report", str(tmp_path)]) in (0, 2)


def test_a_number_of_runs_beyond_float_is_an_error(tmp_path: Path) -> None:
    values = {"began": 1.0, "seen": 1.0, "cells": 10**400, "done": 1, "ended": 1}
    storage.write_with_checksum(str(tmp_path / "progress.json"), json.dumps(values).encode())
    assert app.run(["status", str(tmp_path)]) == 2
