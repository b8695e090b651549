"""Progress of a study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from syncclip import storage
from syncclip.cli.app import run
from syncclip.core.settings import UserError
from syncclip.storage import status_file
from syncclip.storage.status_file import keep_status_file
from syncclip.studies.status import PROGRESS, StudyStatus, read_study_status

STATUS = StudyStatus(
    began=0,
    seen=100,
    cells=24,
    done=9,
    failed={"ivlp-real-seed2": "the disk is full"},
    running=["coop-both-1-seed1", "coop-both-4-seed1"],
    slots=2,
    ended=6,
    seconds=240,
)
COUNTS = "9 done, 1 failed, 2 running, 12 waiting, of 24 runs"


def test_trainings_are_counted_by_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "time", SimpleNamespace(time=lambda: 103.0))
    lines = STATUS.lines()
    assert lines[0] == f"running: {COUNTS}"
    assert "failed: ivlp-real-seed2: the disk is full" in lines
    assert "running: coop-both-1-seed1, coop-both-4-seed1" in lines
    assert lines[-1] == "last heartbeat: 3 s ago"


def test_remaining_time_is_estimated_from_mean_time_and_slots() -> None:
    assert STATUS.remaining == (12 + 2) / 2 * 40
    assert STATUS.model_copy(update={"ended": 0}).remaining is None


def test_lost_driver_is_reported() -> None:
    assert "the driver is gone" in STATUS.lines()[-1]
    assert "the driver is gone" not in STATUS.model_copy(update={"state": "ended"}).lines()[-1]


def test_file_records_the_end_of_trainings(tmp_path: Path) -> None:
    with keep_status_file(str(tmp_path / PROGRESS), status := StudyStatus.begin(cells=3, done=0)):
        status.give(["a", "b"], 2)
        status.take("a", 4.0, None)
        status.take("b", 6.0, "no memory")
        status.give(["c"], 2)
    stored = read_study_status(str(tmp_path))
    assert stored is not None
    assert (stored.state, stored.done, stored.failed, stored.running) == ("ended", 1, {"b": "no memory"}, [])
    assert (stored.waiting, stored.remaining) == (1, 2.5)


def test_file_records_an_interruption(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        keep_status_file(str(tmp_path / PROGRESS), StudyStatus.begin(cells=3, done=0, running=["a"])),
    ):
        raise KeyboardInterrupt
    stored = read_study_status(str(tmp_path))
    assert stored is not None and (stored.state, stored.running) == ("interrupted", [])


def test_file_of_another_version_is_an_error(tmp_path: Path) -> None:
    storage.write_with_checksum(str(tmp_path / PROGRESS), b"{}")
    with pytest.raises(UserError, match="use the version that wrote it"):
        read_study_status(str(tmp_path))


def test_commands_print_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "icons", "--status", "--out", str(tmp_path)]
    assert run(command) == 2
    assert "no study has started" in capsys.readouterr().err
    storage.write_document(str(tmp_path / PROGRESS), STATUS)
    for arguments in (["status", str(tmp_path)], command):
        assert run(arguments) == 0
        assert COUNTS in capsys.readouterr().out
