"""`syncclip verify`: exit status, and damage that repair cannot fix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.test_app import Outcome


def test_damage_is_reported_with_status_1(capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    intact = Outcome(capsys, "verify", str(folder))
    assert intact.status == 0 and "0 problems" in intact.out
    assert intact.err.startswith("verify: 0/")  # progress
    plan = folder / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    damaged = Outcome(capsys, "verify", str(folder))
    assert damaged.status == 1
    assert damaged.out.startswith(f"{plan} is corrupt")
    repaired = Outcome(capsys, "shards", "verify", str(folder), "--repair")
    assert repaired.status == 1  # the shards are intact


def test_shards_are_not_repaired_from_a_damaged_plan(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    for name, old, new in (
        ("plan.json", b'"seed": 0', b'"seed": 1'),
        ("00000_stats.json", b'"shard": 0', b'"shard": 2'),
    ):
        (folder / name).write_bytes((folder / name).read_bytes().replace(old, new))
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name[0] != "."}
    assert "plan.json is corrupt" in Outcome(capsys, "shards", "verify", str(folder), "--repair").error
    assert {file: file.read_bytes() for file in before} == before
