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


def test_a_changed_recipe_never_goes_on_with_an_old_run(tmp_path: Path) -> None:
    run(job(tmp_path, "1" * 64, "training: {epochs: 4, seed: 1}"))
    with pytest.raises(UserError) as refusal:
        run(job(tmp_path, "2" * 64, "training: {epochs: 5, seed: 1}"))
    sentence = str(refusal.value)
    assert "111111111111" in sentence and "222222222222" in sentence
    assert "training.epochs: 4 -> 5" in sentence and "seed" not in sentence


def test_what_decides_no_run_is_not_told_as_its_difference(tmp_path: Path) -> None:
    run(job(tmp_path, "1" * 64, "study: {configurations: [a], seeds: [1]}\ntraining: {epochs: 4}"))
    with pytest.raises(UserError, match=r"of recipe 222222222222 \(training.epochs: 4 -> 5\); choose"):
        run(job(tmp_path, "2" * 64, "study: {configurations: [b], seeds: [1, 2]}\ntraining: {epochs: 5}"))


def test_a_run_that_failed_before_its_first_step_leaves_its_folder_free(tmp_path: Path) -> None:
    failed = RunRecord(name="fake", recipe_hash="1" * 64, status="failed", error="the set is empty")
    fakes.folder(tmp_path).write(failed)
    assert run(job(tmp_path, "2" * 64, "")).recipe_hash == "2" * 64
    fakes.folder(tmp_path).write(failed.model_copy(update={"total_steps": 20, "steps": 3}))
    with pytest.raises(UserError, match="contains run 'fake' of recipe 111111111111"):
        run(job(tmp_path, "2" * 64, ""))


def test_the_recipe_lies_beside_the_results(tmp_path: Path) -> None:
    run(job(tmp_path, "1" * 64, "training: {epochs: 4}\n"))
    assert storage.read_bytes(str(tmp_path / "recipe.yaml")) == b"training: {epochs: 4}\n"


def test_a_folder_with_a_strange_record_is_refused(tmp_path: Path) -> None:
    storage.write_with_checksum(str(tmp_path / "run.json"), b'{"name": 3}')
    with pytest.raises(UserError, match=r"run\.json cannot be read by this version"):
        run(fakes.job(tmp_path))


def test_differences_name_keys_that_changed_came_or_went() -> None:
    old = "a: {b: 1, c: [1, 2]}\ngone: yes\nsame: 0.5"
    new = "a: {b: 2, c: [1, 2]}\ncame: x\nsame: 0.5"
    assert differences(old, new) == ["a.b: 1 -> 2", 'came: absent -> "x"', "gone: true -> absent"]


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


def test_a_run_from_the_start_leaves_nothing_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsFile(str(path), 0).close()
    assert path.read_bytes() == b""


def test_elsewhere_the_file_is_replaced_at_every_sync() -> None:
    url = "memory://metrics-test/metrics.jsonl"
    metrics = MetricsFile(url, 0)
    metrics.write(step=1, total=1.0)
    assert last_line(url) is None
    metrics.sync()
    assert last_line(url) == {"step": 1, "total": 1.0}
    metrics.close()


def test_a_loss_that_is_no_number_never_gets_into_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        MetricsFile(str(tmp_path / "metrics.jsonl"), 0).write(step=1, total=float("nan"))
