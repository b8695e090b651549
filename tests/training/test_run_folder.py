from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.training.loop import TrainJob, run
from syncclip.training.run_folder import MetricsFile, RunRecord, differences, last_line
from tests.training import fakes


def job(folder: Path, recipe: str, text: str) -> TrainJob:
    made = fakes.job(folder)
    return TrainJob(fakes.folder(folder, recipe, text), made.method, made.stream, made.settings, made.rate)


def test_run_of_another_recipe_is_an_error_with_the_deciding_differences(tmp_path: Path) -> None:
    text = "study: {configurations: [a], seeds: [1]}\ntraining: {epochs: 4, seed: 1}"
    run(job(tmp_path, "1" * 64, text))
    assert storage.read_bytes(str(tmp_path / "recipe.yaml")) == text.encode()
    with pytest.raises(UserError, match=r"111111111111.* of recipe 222222222222 \(training.epochs: 4 -> 5\); choose"):
        run(job(tmp_path, "2" * 64, text.replace("[a]", "[b]").replace("epochs: 4", "epochs: 5")))


def test_run_that_failed_before_its_first_step_can_be_replaced(tmp_path: Path) -> None:
    failed = RunRecord(name="fake", recipe_hash="1" * 64, status="failed", error="the set is empty")
    fakes.folder(tmp_path).write(failed)
    assert run(job(tmp_path, "2" * 64, "")).recipe_hash == "2" * 64
    fakes.folder(tmp_path).write(failed.model_copy(update={"total_steps": 20, "steps": 3}))
    with pytest.raises(UserError, match="contains run 'fake' of recipe 111111111111"):
        run(job(tmp_path, "2" * 64, ""))


def test_unreadable_record_is_an_error(tmp_path: Path) -> None:
    storage.write_with_checksum(str(tmp_path / "run.json"), b'{"name": 3}')
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        run(fakes.job(tmp_path))


def test_differences_of_changed_added_and_removed_settings() -> None:
    old = "a: {b: 1, c: [1, 2]}\nremoved: yes\nsame: 0.5"
    new = "a: {b: 2, c: [1, 2]}\nadded: x\nsame: 0.5"
    assert differences(old, new) == ["a.b: 1 -> 2", 'added: absent -> "x"', "removed: true -> absent"]


def test_lines_after_the_step_are_dropped_on_resuming(tmp_path: Path) -> None:
    path = str(tmp_path / "metrics.jsonl")
    first = MetricsFile(path, 0)
    for step in (1, 2, 3):
        first.write(step=step, total=0.5 * step)
    first.close()
    second = MetricsFile(path, 2)
    second.write(step=3, total=9.0)
    second.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines == ['{"step": 1, "total": 0.5}', '{"step": 2, "total": 1.0}', '{"step": 3, "total": 9.0}']
    MetricsFile(path, 0).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_remote_file_is_replaced_at_every_sync() -> None:
    url = "memory://metrics-test/metrics.jsonl"
    metrics = MetricsFile(url, 0)
    metrics.write(step=1, total=1.0)
    assert last_line(url) is None
    metrics.sync()
    assert last_line(url) == {"step": 1, "total": 1.0}
    metrics.close()


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        MetricsFile(str(tmp_path / "metrics.jsonl"), 0).write(step=1, total=float("nan"))
