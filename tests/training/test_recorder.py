from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from syncclip import storage
from syncclip.training.recorder import Metrics, checkpoint_due, last_line, log_due
from syncclip.training.trackers import Events


def test_lines_after_the_step_are_dropped_on_resuming(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    first = Metrics(path, 0)
    for step in (1, 2, 3):
        first.write(step=step, total=0.5 * step)
    first.close()
    second = Metrics(path, 2)
    second.write(step=3, total=9.0)
    second.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "total": 0.5}', '{"step": 2, "total": 1.0}', '{"step": 3, "total": 9.0}']


def test_a_run_from_the_start_leaves_nothing_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    Metrics(str(path), 0).close()
    assert path.read_bytes() == b""


def test_elsewhere_the_file_is_replaced_at_every_sync() -> None:
    url = "memory://metrics-test/metrics.jsonl"
    metrics = Metrics(url, 0)
    metrics.write(step=1, total=1.0)
    assert last_line(url) is None
    metrics.sync()
    assert last_line(url) == {"step": 1, "total": 1.0}
    metrics.close()


def test_events_reach_a_remote_folder() -> None:
    events = Events("memory://events-test", 0)
    events.write(1, {"loss/total": 1.0})
    events.close()
    assert [name.split(".")[0] for name in storage.listdir("memory://events-test")] == ["events"]
    fsspec.filesystem("memory").rm("/events-test", recursive=True)


def test_a_loss_that_is_no_number_never_gets_into_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Metrics(str(tmp_path / "metrics.jsonl"), 0).write(step=1, total=float("nan"))


def test_checkpoints_fall_due_by_the_step_alone_and_never_at_the_end() -> None:
    assert [done for done in range(13) if checkpoint_due(done, 12, 4)] == [4, 8]
    assert [done for done in range(13) if checkpoint_due(done, 12, 4, waited=done in (0, 5, 12))] == [4, 5, 8]


def test_first_last_and_every_nth_step_are_logged() -> None:
    assert [done for done in range(1, 12) if log_due(done, 11, 4)] == [1, 4, 8, 11]
