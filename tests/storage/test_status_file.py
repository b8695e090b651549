"""A status file is written at the begin, while the block runs, and at its end; nothing depends on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.settings import Settings
from syncclip.storage.status_file import LivingStatus


class Told(Settings):
    """How a run is doing."""

    state: str = "running"
    seen: float = 0.0


class ToldFile(LivingStatus[Told]):
    """Tells whether the block failed."""

    def outcome(self, error: BaseException | None) -> dict[str, Any]:
        """Failed or complete."""
        return {"state": "failed" if error else "complete"}


def told(place: Path) -> Told:
    return Told.model_validate_json(place.read_text())


def test_begin_and_end_are_told_with_their_time(tmp_path: Path) -> None:
    place, now = tmp_path / "told.json", iter([100.0, 200.0])
    with ToldFile(str(place), Told(), interval=600, clock=lambda: next(now)):
        assert told(place) == Told(state="running", seen=100.0)
    assert told(place) == Told(state="complete", seen=200.0)
    with pytest.raises(KeyboardInterrupt), ToldFile(str(place), Told()):
        raise KeyboardInterrupt
    assert told(place).state == "failed"


def test_it_is_written_while_the_block_waits(tmp_path: Path) -> None:
    place = tmp_path / "told.json"
    with ToldFile(str(place), Told(), interval=0.01):
        first = told(place).seen
        deadline = time.monotonic() + 60
        while told(place).seen == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_place_that_cannot_be_written_to_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def refuse(url: str, document: object) -> None:
        tries.append(url)
        raise OSError("reset")

    monkeypatch.setattr(storage, "write_document", refuse)
    with ToldFile(f"{tmp_path}/told.json", Told()):
        pass
    assert tries == [f"{tmp_path}/told.json"] * 2
