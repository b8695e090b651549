"""When lines and checkpoints are due, and the speed that a line tells."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from syncclip.training import recorder
from syncclip.training.checkpoints import Checkpoint
from syncclip.training.recorder import RunRecorder, checkpoint_due, log_due
from syncclip.training.run_folder import RunFolder, RunRecord
from syncclip.training.settings import TrainingSettings


@pytest.mark.parametrize(("resumed", "speeds"), [(0, [4.0, 3 * 4.0, 4 * 4.0]), (2, [2 * 4.0, 4 * 4.0])])
def test_a_line_tells_the_real_images_a_second_since_the_line_before(
    resumed: int, speeds: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second passes before each line; the first after a resume counts the steps since then alone."""
    told: list[float] = []
    now = SimpleNamespace(perf_counter=lambda: float(len(told)))
    monkeypatch.setattr(recorder, "time", now)
    record = RunRecord(name="run", recipe_hash="0", total_steps=8)
    settings = TrainingSettings(batch_size=4, log_every=4)
    folder = RunFolder(str(tmp_path), "run", "0")
    running = RunRecorder(folder, settings, record, Checkpoint(resumed, {}), lambda *line: told.append(line[-1]))
    now.perf_counter = lambda: len(told) + 1.0
    for done in range(resumed + 1, 9):
        running.log(done, 0, 0.1, {"total": 1.0})
    running.close()
    assert told == speeds


def test_checkpoints_fall_due_by_the_step_alone_and_never_at_the_end() -> None:
    assert [done for done in range(13) if checkpoint_due(done, 12, 4)] == [4, 8]
    assert [done for done in range(13) if checkpoint_due(done, 12, 4, waited=done in (0, 5, 12))] == [4, 5, 8]


def test_first_last_and_every_nth_step_are_logged() -> None:
    assert [done for done in range(1, 12) if log_due(done, 11, 4)] == [1, 4, 8, 11]
