from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from syncclip.training import recorder
from syncclip.training.checkpoints import Checkpoint
from syncclip.training.recorder import RunRecorder, checkpoint_due, log_due
from syncclip.training.run_folder import RunFolder, RunRecord
from syncclip.training.settings import TrainingSettings


@pytest.mark.parametrize(("resumed", "expected"), [(0, [4.0, 3 * 4.0, 4 * 4.0]), (2, [2 * 4.0, 4 * 4.0])])
def test_logged_throughput_counts_the_steps_since_the_last_line(
    resumed: int, expected: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One second passes before each line; after resuming, only the steps of this start count."""
    speeds: list[float] = []
    clock = SimpleNamespace(perf_counter=lambda: float(len(speeds)))
    monkeypatch.setattr(recorder, "time", clock)
    record = RunRecord(name="run", recipe_hash="0", total_steps=8)
    settings = TrainingSettings(batch_size=4, log_every=4)
    folder = RunFolder(str(tmp_path), "run", "0")
    running = RunRecorder(folder, settings, record, Checkpoint(resumed, {}), lambda *line: speeds.append(line[-1]))
    clock.perf_counter = lambda: len(speeds) + 1.0
    for done in range(resumed + 1, 9):
        running.log(done, 0, 0.1, {"total": 1.0})
    running.close()
    assert speeds == expected


def test_checkpoints_are_due_on_schedule_and_on_request_but_not_at_the_end() -> None:
    assert [done for done in range(13) if checkpoint_due(done, 12, 4)] == [4, 8]
    assert [done for done in range(13) if checkpoint_due(done, 12, 4, waited=done in (0, 5, 12))] == [4, 5, 8]


def test_first_last_and_every_nth_step_are_logged() -> None:
    assert [done for done in range(1, 12) if log_due(done, 11, 4)] == [1, 4, 8, 11]
