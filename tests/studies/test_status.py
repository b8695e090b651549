"""What a study tells of itself while it runs."""

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

FAR = StudyStatus(
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


def test_cells_are_counted_by_what_became_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_file, "time", SimpleNamespace(time=lambda: 103.0))
    reported = FAR.lines()
    assert reported[0] == "running: 9 done, 1 failed, 2 running, 12 waiting, of 24 trainings"
    assert "failed: ivlp-real-seed2: the disk is full" in reported
    assert "running: coop-both-1-seed1, coop-both-4-seed1" in reported
    assert reported[-1] == "last sign of life: 3 s ago"


def test_the_time_left_is_that_of_the_cells_left_on_all_slots() -> None:
    assert FAR.remaining == (12 + 2) / 2 * 40
    assert FAR.model_copy(update={"ended": 0}).remaining is None


def test_a_driver_without_a_sign_of_life_is_reported() -> None:
    assert "the driver is gone" in FAR.lines()[-1]
    assert "the driver is gone" not in FAR.model_copy(update={"state": "ended"}).lines()[-1]


def test_the_file_follows_the_cells(tmp_path: Path) -> None:
    status = StudyStatus.begin(cells=3, done=0)
    with keep_status_file(str(tmp_path / PROGRESS), status):
        status.give(["a", "b"], 2)
        status.take("a", 4.0, None)
        status.take("b", 6.0, "no room")
        status.give(["c"], 2)
    found = read_study_status(str(tmp_path))
    assert found is not None
    assert (found.state, found.done, found.failed, found.running) == ("ended", 1, {"b": "no room"}, [])
    assert (found.waiting, found.remaining) == (1, 2.5)


def test_an_interrupted_study_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        keep_status_file(str(tmp_path / PROGRESS), StudyStatus.begin(cells=3, done=0, running=["a"])),
    ):
        raise KeyboardInterrupt
    found = read_study_status(str(tmp_path))
    assert found is not None and (found.state, found.running) == ("interrupted", [])


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    storage.write_with_checksum(str(tmp_path / PROGRESS), b"{}")
    with pytest.raises(UserError, match="use the version that wrote it"):
        read_study_status(str(tmp_path))


def test_both_commands_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage.write_document(str(tmp_path / PROGRESS), FAR)
    for command in (["status", str(tmp_path)], ["study", "icons", "--status", "--out", str(tmp_path)]):
        assert run(command) == 0
        assert "9 done, 1 failed, 2 running, 12 waiting, of 24 trainings" in capsys.readouterr().out


def test_before_the_first_cell_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", "icons", "--status", "--out", str(tmp_path)]) == 2
    assert "no study has started" in capsys.readouterr().err
