"""`contents.json` lists the files of a finished command."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.storage.documents import CONTENTS

OWNER, OTHER = storage.identity("run 1"), storage.identity("run 2")


def test_the_files_of_a_folder_are_listed_without_shards(tmp_path: Path) -> None:
    for name in ("results.json", "00000.tar", "00000.parquet", "00000_stats.json", ".hidden", "events.out.tfevents.1"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    assert storage.read_contents(str(tmp_path)) is None
    storage.write_contents(str(tmp_path), OWNER)
    assert storage.read_contents(str(tmp_path), OWNER) == ("events.out.tfevents.1", "results.json")


def test_contents_are_written_again_only_if_they_changed(tmp_path: Path) -> None:
    (tmp_path / "results.json").touch()
    storage.write_contents(str(tmp_path), OWNER)
    before = (tmp_path / CONTENTS).stat().st_mtime_ns
    storage.write_contents(str(tmp_path), OWNER)
    assert (tmp_path / CONTENTS).stat().st_mtime_ns == before
    (tmp_path / "report.html").touch()
    storage.write_contents(str(tmp_path), OWNER)
    assert storage.read_contents(str(tmp_path)) == ("report.html", "results.json")


def test_contents_of_another_owner_are_an_error_and_are_replaced(tmp_path: Path) -> None:
    """A dataset and a run may share a folder; the last finished command lists the files of both."""
    (tmp_path / "plan.json").touch()
    storage.write_contents(str(tmp_path), OWNER)
    with pytest.raises(storage.DamagedError, match=r"contents\.json .*belongs to a different run"):
        storage.read_contents(str(tmp_path), OTHER)
    storage.write_contents(str(tmp_path), OTHER)
    assert storage.read_contents(str(tmp_path), OTHER) == ("plan.json",)
