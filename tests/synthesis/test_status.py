"""The status file of a synthesis: what it says, and how it tells the end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.storage.status_file import SILENCE
from syncclip.synthesis.status import Facts, Status, StatusFile, read_status, settle_status
from syncclip.synthesis.worker import Report


def facts() -> Facts:
    found = Facts(total=100, images=20, most=1)
    found.count(Report(0, worker="a", started=10.0, ended=20.0, generate=9.0, rejects='{"blank": 2}'), 10)
    return found


def status_of(folder: Path) -> Status:
    found = read_status(str(folder))
    assert found is not None
    return found


def test_a_run_tells_where_it_is_and_that_it_lives(tmp_path: Path) -> None:
    now = iter([100.0, 101.0, 500.0, 501.0])
    with StatusFile(str(tmp_path), Facts(100, 20, 1), interval=600, clock=lambda: next(now)) as file:
        begun = status_of(tmp_path)
        assert (begun.state, begun.images, begun.planned, begun.began, begun.seen) == ("running", 20, 100, 100.0, 101.0)
        file.update(facts())
    ended = status_of(tmp_path)
    assert (ended.state, ended.images, ended.rate, ended.remaining, ended.seen) == ("complete", 30, 1.0, 70.0, 501.0)
    assert (ended.busy["generate"], ended.rejects, ended.actors) == (0.9, {"blank": 2}, 1)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("no space left"), "failed", "no space left"),
        (RuntimeError("a\nb"), "failed", "RuntimeError: a b"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
    ],
)
def test_an_end_before_the_end_is_told_with_its_reason(
    tmp_path: Path, error: BaseException, state: str, reason: str
) -> None:
    with pytest.raises(type(error)), StatusFile(str(tmp_path), facts()):
        raise error
    found = status_of(tmp_path)
    assert (found.state, found.reason) == (state, reason)
    assert f"why: {reason}" in found.lines()


def test_a_driver_that_is_silent_for_long_is_called_gone() -> None:
    alive = Status(began=0.0, seen=time.time(), images=1, planned=2)
    gone = alive.model_copy(update={"seen": time.time() - SILENCE - 3600})
    assert "gone" not in alive.lines()[-1]
    assert "last sign of life: 1 h 2 min ago; the driver is gone" in gone.lines()[-1]
    ended = gone.model_copy(update={"state": "complete"})
    assert ended.silence == 0 and "gone" not in ended.lines()[-1]


def test_a_set_whose_driver_died_after_its_last_shard_is_called_complete(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), StatusFile(str(tmp_path), facts()):
        raise KeyboardInterrupt
    settle_status(str(tmp_path), 100, 100)
    found = status_of(tmp_path)
    assert (found.state, found.reason, found.images, found.remaining) == ("complete", "", 100, 0.0)


def test_a_status_of_another_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"state": "flying"}))
    with pytest.raises(UserError, match="use the version that wrote it"):
        read_status(str(tmp_path))
