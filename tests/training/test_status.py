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
from syncclip.training.status import TrainingStatus, status_lines
from tests.training import fakes

OWNER = storage.identity("a" * 64)


def record(folder: Path, **values: object) -> None:
    fakes.folder(folder).write(RunRecord(name="fake", recipe_hash="a" * 64, total_steps=20).model_copy(update=values))


def test_folder_without_a_run_has_no_status(tmp_path: Path) -> None:
    assert status_lines(str(tmp_path)) is None


def test_status_of_a_running_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(status.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(status_file, "time", SimpleNamespace(time=lambda: now[0]))
    record(tmp_path)
    current = TrainingStatus.begin()
    with keep_status_file(str(tmp_path / status.STATUS), current, OWNER, 600, clock=lambda: now[0]):
        current.count(4, 20, 1.5)  # in an earlier attempt
        now[0] += 4
        current.count(12, 20, 0.25)
        storage.write_document(str(tmp_path / status.STATUS), current, OWNER)
        lines = status_lines(str(tmp_path))
    assert lines == ["running: 12 of 20 steps · 2 steps/s · 4 s left", "loss: 0.25", "last heartbeat: 4 s ago"]


def test_status_of_a_lost_driver_and_of_waiting_workers(tmp_path: Path) -> None:
    record(tmp_path)
    lost = TrainingStatus.begin().model_copy(update={"seen": 0.0, "waits": "training is waiting for machines"})
    storage.write_document(str(tmp_path / status.STATUS), lost, OWNER)
    lines = status_lines(str(tmp_path))
    assert lines is not None
    assert lines[:2] == ["running: no step completed yet", "training is waiting for machines"]
    assert "the driver is gone" in lines[2] and "run the same `train` command" in lines[2]


def test_status_after_the_end_is_that_of_the_record(tmp_path: Path) -> None:
    with keep_status_file(str(tmp_path / status.STATUS), TrainingStatus.begin(), OWNER):
        pass
    record(tmp_path, status="finished", steps=20)
    assert status_lines(str(tmp_path)) == ["finished: 20 of 20 steps"]
    record(tmp_path, status="failed", steps=7, error="no space left")
    assert status_lines(str(tmp_path)) == ["failed: 7 of 20 steps", "why: no space left"]


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZeroDivisionError("division by zero"), "why: ZeroDivisionError: division by zero"),
        (UserError("the cluster has 1 CPU"), "why: the cluster has 1 CPU"),
    ],
)
def test_status_contains_the_error_of_the_driver(tmp_path: Path, recorded: bool, error: Exception, reason: str) -> None:
    """The run's record is still "running", or does not exist yet."""
    if recorded:
        record(tmp_path)
    file = str(tmp_path / status.STATUS)
    with pytest.raises(type(error)), keep_status_file(file, TrainingStatus.begin(), OWNER):
        raise error
    lines = status_lines(str(tmp_path))
    assert lines is not None and lines[:2] == ["failed: no step completed yet", reason]
