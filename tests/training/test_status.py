"""What a training tells of itself while it runs, and after its driver was lost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.storage import status_file
from syncclip.storage.status_file import keep_status_file
from syncclip.training import status
from syncclip.training.run_folder import RunRecord
from tests.training import fakes

OWNER = storage.identity("a" * 64)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(status_file, "time", SimpleNamespace(time=lambda: now[0]))
    return now


def record(folder: Path, **values: object) -> None:
    fakes.folder(folder).write(RunRecord(name="fake", recipe_hash="a" * 64, total_steps=20).model_copy(update=values))


def test_a_folder_without_a_run_tells_nothing(tmp_path: Path) -> None:
    assert status.status_lines(str(tmp_path)) is None


def test_a_running_training_tells_its_speed_and_the_time_left(tmp_path: Path, clock: list[float]) -> None:
    record(tmp_path)
    told = status.TrainingStatus.begin()
    with keep_status_file(str(tmp_path / status.STATUS), told, OWNER, 600, clock=lambda: clock[0]):
        told.count(4, 20, 1.5)  # of an earlier start: no step of this call
        clock[0] += 4
        told.count(12, 20, 0.25)
        storage.write_document(str(tmp_path / status.STATUS), told, OWNER)
        lines = status.status_lines(str(tmp_path))
    assert lines == ["running: 12 of 20 steps · 2 steps/s · 4 s left", "loss: 0.25", "last sign of life: 4 s ago"]


def test_a_lost_driver_and_a_wait_for_machines_show(tmp_path: Path) -> None:
    record(tmp_path)
    told = status.TrainingStatus.begin().model_copy(update={"seen": 0.0, "waits": "training waits for machines"})
    storage.write_document(str(tmp_path / status.STATUS), told, OWNER)
    lines = status.status_lines(str(tmp_path))
    assert lines is not None
    assert lines[:2] == ["running: no step made yet", "training waits for machines"]
    assert "the driver is gone" in lines[2] and "run the same `train` command" in lines[2]


def test_what_ended_is_told_by_its_record(tmp_path: Path) -> None:
    with keep_status_file(str(tmp_path / status.STATUS), status.TrainingStatus.begin(), OWNER):
        pass
    record(tmp_path, status="finished", steps=20)
    assert status.status_lines(str(tmp_path)) == ["finished: 20 of 20 steps"]
    record(tmp_path, status="failed", steps=7, error="no space left")
    assert status.status_lines(str(tmp_path)) == ["failed: 7 of 20 steps", "why: no space left"]


@pytest.mark.parametrize("recorded", [True, False])
def test_the_reason_of_a_failed_or_interrupted_training_is_shown(tmp_path: Path, recorded: bool) -> None:
    """The driver failed: the run's own record says "running", or isn't there yet."""
    if recorded:
        record(tmp_path)
    for error, expected in (
        (ZeroDivisionError("division by zero"), "why: ZeroDivisionError: division by zero"),
        (UserError("the cluster has 1 CPU"), "why: the cluster has 1 CPU"),
    ):
        with (
            pytest.raises(type(error)),
            keep_status_file(str(tmp_path / status.STATUS), status.TrainingStatus.begin(), OWNER),
        ):
            raise error
        lines = status.status_lines(str(tmp_path))
        assert lines is not None and lines[:2] == ["failed: no step made yet", expected]
