"""`contents.json` lists what a finished command left, so that a removed file is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.storage.contents import CONTENTS

OWNER, OTHER = storage.identity("run 1"), storage.identity("run 2")


def test_the_names_of_a_folders_own_files_are_listed(tmp_path: Path) -> None:
    for name in ("results.json", "00000.tar", "00000.parquet", "00000_stats.json", ".hidden", "events.out.tfevents.1"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    assert storage.read_contents(str(tmp_path)) is None
    storage.write_contents(str(tmp_path), OWNER)
    assert storage.read_contents(str(tmp_path), OWNER) == ("events.out.tfevents.1", "results.json")


def test_it_is_written_again_only_where_it_changed(tmp_path: Path) -> None:
    (tmp_path / "results.json").touch()
    storage.write_contents(str(tmp_path), OWNER)
    before = (tmp_path / CONTENTS).stat().st_mtime_ns
    storage.write_contents(str(tmp_path), OWNER)
    assert (tmp_path / CONTENTS).stat().st_mtime_ns == before
    (tmp_path / "report.html").touch()
    storage.write_contents(str(tmp_path), OWNER)
    assert storage.read_contents(str(tmp_path)) == ("report.html", "results.json")


def test_that_of_another_owner_is_an_error_and_is_replaced(tmp_path: Path) -> None:
    """A set and a run may share a folder; the last command that finished lists the files of both."""
    (tmp_path / "plan.json").touch()
    storage.write_contents(str(tmp_path), OWNER)
    with pytest.raises(storage.DamagedError, match=r"contents\.json .*belongs to another run"):
        storage.read_contents(str(tmp_path), OTHER)
    storage.write_contents(str(tmp_path), OTHER)
    assert storage.read_contents(str(tmp_path), OTHER) == ("plan.json",)
