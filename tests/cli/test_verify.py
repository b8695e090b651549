"""`syncclip verify`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.test_app import Outcome


def test_a_sound_set_is_read_and_a_damaged_file_ends_with_status_one(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    sound = Outcome(capsys, "verify", str(folder))
    assert (sound.status, "0 problems" in sound.out) == (0, True)
    assert sound.err.startswith("verify: 0/"), "progress at once"
    plan = folder / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    damaged = Outcome(capsys, "verify", str(folder))
    assert damaged.status == 1
    assert damaged.out.startswith(f"{plan} is corrupt")
    refused = Outcome(capsys, "shards", "verify", str(folder), "--repair")
    assert refused.status == 1, "there is no shard to be generated again"


def test_a_damaged_plan_is_not_repaired_by(capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    for name, old, new in (
        ("plan.json", b'"seed": 0', b'"seed": 1'),
        ("00000_stats.json", b'"shard": 0', b'"shard": 2'),
    ):
        (folder / name).write_bytes((folder / name).read_bytes().replace(old, new))
    before = {file: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name[0] != "."}
    assert "plan.json is corrupt" in Outcome(capsys, "shards", "verify", str(folder), "--repair").error
    assert {file: file.read_bytes() for file in before} == before
