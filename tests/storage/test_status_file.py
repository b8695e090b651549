"""A status file is written at the begin, while the block runs, and at its end; nothing depends on it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.storage.status_file import JobStatus, keep_status_file


def begun() -> JobStatus:
    return JobStatus(began=0.0, seen=0.0)


def told(place: Path) -> JobStatus:
    return JobStatus.model_validate_json(storage.read_bytes(str(place)))


def test_begin_and_end_are_told_with_their_time(tmp_path: Path) -> None:
    place, now = tmp_path / "told.json", iter([100.0, 200.0])
    with keep_status_file(str(place), begun(), interval=600, clock=lambda: next(now)):
        assert told(place) == JobStatus(state="running", began=0.0, seen=100.0)
    assert told(place) == JobStatus(state="complete", began=0.0, seen=200.0)
    with pytest.raises(KeyboardInterrupt), keep_status_file(str(place), begun()):
        raise KeyboardInterrupt
    assert told(place).state == "interrupted"
    with pytest.raises(UserError), keep_status_file(str(place), begun()):
        raise UserError("no space left")
    assert (told(place).state, told(place).reason) == ("failed", "no space left")


def test_a_job_begins_at_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 200.0])
    monkeypatch.setattr(time, "time", lambda: next(readings))
    assert JobStatus.begin(reason="x") == JobStatus(reason="x", began=100.0, seen=100.0)


@pytest.mark.parametrize("lacking", ["began", "seen"])
def test_a_file_without_a_time_is_refused(tmp_path: Path, lacking: str) -> None:
    place = tmp_path / "told.json"
    storage.write_with_checksum(str(place), begun().model_dump_json(exclude={lacking}).encode())
    with pytest.raises(UserError, match=f"{lacking}: Field required"):
        storage.read_document(str(place), JobStatus, "use the version that wrote it")


def test_it_is_written_while_the_block_waits(tmp_path: Path) -> None:
    place = tmp_path / "told.json"
    with keep_status_file(str(place), begun(), interval=0.01):
        first = told(place).seen
        deadline = time.monotonic() + 60
        while told(place).seen == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_place_that_cannot_be_written_to_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def refuse(url: str, *_: object) -> None:
        tries.append(url)
        raise OSError("reset")

    monkeypatch.setattr(storage, "write_document", refuse)
    with keep_status_file(f"{tmp_path}/told.json", begun(), interval=600):
        pass
    assert tries == [f"{tmp_path}/told.json"] * 2
