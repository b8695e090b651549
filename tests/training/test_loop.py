from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.runtime import shutdown
from syncclip.shards.images import Corruption
from syncclip.training.loop import DivergedError, StoppedError, load_prompts, run
from syncclip.training.run_folder import RunRecord
from tests.training import fakes
from tests.training.processes import exit_code


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def record(folder: Path) -> RunRecord:
    return RunRecord.model_validate_json((folder / "run.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(fakes.job(folder))
    return folder


def test_training_is_deterministic(tmp_path: Path, uninterrupted: Path) -> None:
    torch.manual_seed(99)  # the generator's state must not matter
    run(fakes.job(tmp_path / "same"))
    run(fakes.job(tmp_path / "other", seed=2))
    assert fakes.bits(tmp_path / "same") == fakes.bits(uninterrupted) != fakes.bits(tmp_path / "other")


def test_only_learned_parameters_are_saved(uninterrupted: Path) -> None:
    saved = safetensors.torch.load_file(uninterrupted / "prompts.safetensors")
    assert saved.keys() == {"weight", "unused"}
    assert torch.equal(saved["unused"], torch.ones(3))


def test_metrics_contain_every_loss_and_no_times(tmp_path: Path) -> None:
    run(fakes.job(tmp_path, log_every=5))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 5, 10, 15, 20]
    assert [line["epoch"] for line in lines] == [0, 0, 1, 2, 3]
    assert lines[0].keys() == {"step", "epoch", "lr", "real", "decay", "total"}


def test_threads_and_generator_of_the_caller_are_restored(tmp_path: Path) -> None:
    made = fakes.job(tmp_path, threads=2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    run(made)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("step", [1, 3, 4, 9, 19])
def test_crashed_run_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: Path, step: int) -> None:
    fakes.crash_at(fakes.job(tmp_path), step)
    run(fakes.job(tmp_path))
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted)


@pytest.mark.fault
def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, uninterrupted: Path) -> None:
    def kill(done: int, *_: object) -> None:
        if done == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(run, fakes.job(tmp_path), 0, 1, kill) == -signal.SIGKILL
    assert not (tmp_path / "prompts.safetensors").exists()
    run(fakes.job(tmp_path))
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted)


def test_resumed_run_repeats_only_steps_after_the_checkpoint(tmp_path: Path) -> None:
    fakes.crash_at(fakes.job(tmp_path), 8)
    assert (record(tmp_path).status, record(tmp_path).steps) == ("running", 6)
    resumed = fakes.job(tmp_path)
    run(resumed)
    assert resumed.stream.requested[0] == (1, 1)  # step 6, the second of the second epoch
    assert resumed.method.ended == [(2, 4), (3, 4), (4, 4)]
    assert record(tmp_path).notes == ["run 'fake' resumes after step 6 of 20"]


def test_run_on_another_file_system_resumes_to_the_same_bits(uninterrupted: Path) -> None:
    url = "memory://loop-test/run"
    fakes.crash_at(fakes.job(url), 8)
    assert run(fakes.job(url)).notes == ["run 'fake' resumes after step 6 of 20"]
    assert fakes.bits(url) == fakes.bits(uninterrupted)
    storage.remove("memory://loop-test", recursive=True)


def test_truncated_line_is_dropped(tmp_path: Path, uninterrupted: Path) -> None:
    fakes.crash_at(fakes.job(tmp_path), 8)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "epo')
    run(fakes.job(tmp_path))
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted)


@pytest.mark.fault
@pytest.mark.parametrize(("line", "resumes_from"), [(7, 6), (5, 3)])
def test_changed_line_is_rewritten_from_an_earlier_checkpoint(
    tmp_path: Path, uninterrupted: Path, line: int, resumes_from: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.crash_at(fakes.job(tmp_path, keep_checkpoints=9), 11)
    file = tmp_path / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"epoch": 0', b'"epoch": 4').replace(b'"epoch": 1', b'"epoch": 5')
    file.write_bytes(b"".join(lines))
    resumed = run(fakes.job(tmp_path, keep_checkpoints=9))
    assert "metrics.jsonl does not match checkpoint" in capsys.readouterr().err
    assert f"run 'fake' resumes after step {resumes_from} of 20" in resumed.notes
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted)


@pytest.mark.fault
def test_run_resumes_from_its_checkpoint_if_metrics_are_lost(tmp_path: Path, uninterrupted: Path) -> None:
    fakes.crash_at(fakes.job(tmp_path), 11)
    (tmp_path / "metrics.jsonl").unlink()
    resumed = run(fakes.job(tmp_path))
    assert any(
        "metrics.jsonl does not match checkpoint" in note and "resuming from step 9" in note for note in resumed.notes
    )
    assert fakes.bits(tmp_path)["prompts.safetensors"] == fakes.bits(uninterrupted)["prompts.safetensors"]
    assert [line["step"] for line in metrics(tmp_path)] == list(range(10, 21))


def test_truncated_checkpoint_is_reported_and_the_previous_one_is_used(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.crash_at(fakes.job(tmp_path), 11)
    fakes.truncate_newest(str(tmp_path))
    run(fakes.job(tmp_path))
    assert "step-00000009.safetensors is damaged" in capsys.readouterr().err
    assert record(tmp_path).notes[1] == "run 'fake' resumes after step 6 of 20"
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted)


def test_timed_checkpoints_change_no_bit(tmp_path: Path, uninterrupted: Path) -> None:
    timed = {"checkpoint_every": 1000, "checkpoint_minutes": 1e-9}
    fakes.crash_at(fakes.job(tmp_path / "early", **timed), 8)
    assert run(fakes.job(tmp_path / "early", **timed)).notes == ["run 'fake' resumes after step 7 of 20"]
    assert fakes.bits(tmp_path / "early") == fakes.bits(uninterrupted)
    run(fakes.job(tmp_path / "late", checkpoint_every=1000, checkpoint_minutes=60))
    assert not (tmp_path / "late" / "checkpoints").exists()


def scores(folder: Path) -> dict[int, float | None]:
    """Scores of the checkpoints that were kept, by step."""
    markers = [json.loads(path.read_text()) for path in (folder / "checkpoints").glob("*.json")]
    return {marker["step"]: marker.get("score") for marker in markers}


def test_checkpoint_with_the_lowest_loss_is_kept(tmp_path: Path) -> None:
    run(fakes.job(tmp_path, keep_best="loss", keep_checkpoints=1))
    totals = [line["total"] for line in metrics(tmp_path)]
    means = {step: sum(totals[step - 3 : step]) / 3 for step in (3, 6, 9, 12, 15, 18)}
    best = min(means, key=lambda step: means[step])
    assert scores(tmp_path) == pytest.approx({step: -means[step] for step in {best, 18}})
    assert record(tmp_path).notes == [f"the best checkpoint by loss is from step {best} ({means[best]:.4g})"]


def test_checkpoint_with_the_best_validation_score_is_kept(tmp_path: Path) -> None:
    accuracies = iter([50.0, 70.0, 60.0, 10.0, 20.0, 30.0])
    made = fakes.job(tmp_path, keep_best="validation", keep_checkpoints=1)
    run(replace(made, validate=lambda: next(accuracies)))
    assert scores(tmp_path) == {6: 70.0, 18: 30.0}
    assert "by validation is from step 6 (70)" in record(tmp_path).notes[0]


@pytest.mark.parametrize("step", [1, 7, 16])
def test_interrupted_run_resumes_to_the_same_bits_and_best_checkpoint(tmp_path: Path, step: int) -> None:
    def job(name: str) -> Any:
        return fakes.job(tmp_path / name, keep_best="loss", keep_checkpoints=1)

    run(job("uninterrupted"))
    with pytest.raises(StoppedError, match=f"interrupted after step {step + 1} of "):
        run(job("stopped"), listener=lambda done, *_: shutdown.request() if done == step else None)
    shutdown.withdraw()
    assert (record(tmp_path / "stopped").status, record(tmp_path / "stopped").steps) == ("interrupted", step + 1)
    assert run(job("stopped")).status == "finished"
    assert fakes.bits(tmp_path / "stopped") == fakes.bits(tmp_path / "uninterrupted")
    assert scores(tmp_path / "stopped") == scores(tmp_path / "uninterrupted")
    assert record(tmp_path / "stopped").notes[-1] == record(tmp_path / "uninterrupted").notes[-1]


def test_finished_run_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(fakes.job(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    repeated = fakes.job(tmp_path)
    assert run(repeated).status == "finished"
    assert repeated.stream.requested == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "is already finished" in capsys.readouterr().err


def test_loss_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    poisoned = fakes.job(tmp_path, noise=0.0)
    poisoned.method.poisoned_step = 8
    with pytest.raises(DivergedError, match=r"step 8 \(epoch 2\): loss 'decay' is nan; lower"):
        run(poisoned)
    assert len(metrics(tmp_path)) == 7
    assert torch.isfinite(poisoned.method.weight).all()


@pytest.mark.parametrize("call", [9, 20])
def test_parameter_that_is_not_finite_is_not_saved(tmp_path: Path, call: int) -> None:
    poisoned = fakes.job(tmp_path)
    poisoned.method.weight.register_hook(lambda g: g * torch.nan if poisoned.method.calls == call else g)
    with pytest.raises(DivergedError, match=rf"after step {call} \(epoch .\): weight contains NaN"):
        run(poisoned)
    assert not (tmp_path / "prompts.safetensors").exists()
    newest = safetensors.torch.load_file(max((tmp_path / "checkpoints").glob("*.safetensors")))
    assert all(tensor.isfinite().all() for tensor in newest.values())


def test_method_without_learned_parameters_finishes_immediately(tmp_path: Path) -> None:
    made = fakes.job(tmp_path)
    made.method.requires_grad_(False)
    assert run(made).total_steps == 0
    assert safetensors.torch.load_file(tmp_path / "prompts.safetensors") == {}
    assert record(tmp_path).status == "finished"


def test_record_of_a_finished_run(uninterrupted: Path) -> None:
    finished = record(uninterrupted)
    assert (finished.status, finished.steps, finished.total_steps) == ("finished", 20, 20)
    assert finished.recipe_hash == "a" * 64
    assert finished.versions.keys() == {"python", "syncclip", "torch", "open_clip_torch", "ray"}
    assert finished.versions["torch"] in (torch.__version__, torch.__version__.split("+")[0])
    files = [uninterrupted / "metrics.jsonl", *uninterrupted.glob("events.*")]
    assert finished.logs == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_tensorboard_events_contain_the_losses(uninterrupted: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted))
    events.Reload()
    values = {event.step: event.value for event in events.Scalars("loss/total")}
    assert values == pytest.approx({line["step"]: line["total"] for line in metrics(uninterrupted)}, rel=1e-6)


def test_record_lists_unreadable_images_and_empty_shards(tmp_path: Path) -> None:
    made = fakes.job(tmp_path)
    made.stream.corruption = Corruption(8)
    for name, images in (("a.jpg", 1), ("00001.tar", 0), ("b.tar", 6)):
        made.stream.corruption.skip(name, "damaged", images)
    assert run(made).notes == [
        "replaced 7 unreadable images with other images of the same class: a.jpg, b.tar",
        "skipped 1 shard without images: 00001.tar",
    ]


def test_batch_that_cannot_be_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"workers is 4, but a batch of 6 .* use 3 worker"):
        run(fakes.job(tmp_path), rank=0, world_size=4)


def test_warmup_without_training_is_noted_once(tmp_path: Path) -> None:
    for _ in range(2):
        (note,) = run(fakes.job(tmp_path, epochs=1)).notes
        assert note.startswith("training.epochs=1 is all warm-up (training.warmup_epochs=1)")
    assert run(fakes.job(tmp_path / "without", epochs=1, warmup_epochs=0)).notes == []


def test_loading_prompts(tmp_path: Path) -> None:
    trained, fresh = fakes.job(tmp_path), fakes.job(tmp_path, seed=2)
    with pytest.raises(UserError, match=r"no prompts\.safetensors; train first"):
        load_prompts(trained.run, fresh.method)
    run(trained)
    load_prompts(trained.run, fresh.method)
    assert torch.equal(fresh.method.weight, trained.method.weight)
    fresh.method.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="different method or backbone"):
        load_prompts(trained.run, fresh.method)


@pytest.mark.fault
def test_damaged_prompts_are_an_error(tmp_path: Path) -> None:
    trained, file = fakes.job(tmp_path), tmp_path / "prompts.safetensors"
    run(trained)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"prompts\.safetensors is corrupt"):
        load_prompts(trained.run, trained.method)
    tensors = {**safetensors.torch.load(data), "unused": torch.tensor([1.0, torch.nan, 1.0])}
    storage.write_with_checksum(str(file), safetensors.torch.save(tensors), owner=trained.run.owner)
    with pytest.raises(UserError, match=r"prompts\.safetensors: unused contains NaN"):
        load_prompts(trained.run, trained.method)
