"""A status file is written at the beginning, periodically, and at the end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.storage.status_file import JobStatus, keep_status_file


def status() -> JobStatus:
    return JobStatus(began=0.0, seen=0.0)


def read_status(path: Path) -> JobStatus:
    return JobStatus.model_validate_json(storage.read_bytes(str(path)))


def test_beginning_and_end_are_recorded_with_their_time(tmp_path: Path) -> None:
    path, now = tmp_path / "status.json", iter([100.0, 200.0])
    with keep_status_file(str(path), status(), interval=600, clock=lambda: next(now)):
        assert read_status(path) == JobStatus(state="running", began=0.0, seen=100.0)
    assert read_status(path) == JobStatus(state="complete", began=0.0, seen=200.0)
    with pytest.raises(KeyboardInterrupt), keep_status_file(str(path), status()):
        raise KeyboardInterrupt
    assert read_status(path).state == "interrupted"
    with pytest.raises(UserError), keep_status_file(str(path), status()):
        raise UserError("no space left")
    assert (read_status(path).state, read_status(path).reason) == ("failed", "no space left")


def test_a_job_begins_at_a_single_time(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 200.0])
    monkeypatch.setattr(time, "time", lambda: next(readings))
    assert JobStatus.begin(reason="x") == JobStatus(reason="x", began=100.0, seen=100.0)


@pytest.mark.parametrize("missing", ["began", "seen"])
def test_a_file_without_a_time_is_an_error(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "status.json"
    storage.write_with_checksum(str(path), status().model_dump_json(exclude={missing}).encode())
    with pytest.raises(UserError, match=f"{missing}: Field required"):
        storage.read_document(str(path), JobStatus, "use the version that wrote it")


def test_a_status_is_written_periodically(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    with keep_status_file(str(path), status(), interval=0.01):
        first = read_status(path).seen
        deadline = time.monotonic() + 60
        while read_status(path).seen == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_failed_write_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def fail(url: str, *_: object) -> None:
        attempts.append(url)
        raise OSError("reset")

    monkeypatch.setattr(storage, "write_document", fail)
    with keep_status_file(f"{tmp_path}/status.json", status(), interval=600):
        pass
    assert attempts == [f"{tmp_path}/status.json"] * 2
