from __future__ import annotations

import hashlib
import json
import math
import signal
import subprocess
import sys
import time
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
from syncclip.training import loop
from syncclip.training.loop import DivergedError, load_prompts, run
from syncclip.training.run_folder import RunRecord
from tests.training import fakes


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Any:
    """A listener that ends a run as a crash would, right after a step was logged."""

    def listener(done: int, *_: object) -> None:
        if done == step:
            raise StoppedError

    return listener


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def record(folder: Path) -> RunRecord:
    return RunRecord.model_validate_json((folder / "run.json").read_text())


def test_two_trainings_agree_in_every_bit(tmp_path: Path) -> None:
    for name in "ab":
        run(fakes.job(tmp_path / name))
        torch.manual_seed(99)  # what happens between runs is of no account
    assert fakes.bits(tmp_path / "a") == fakes.bits(tmp_path / "b")


def test_another_seed_gives_other_prompts(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "a"))
    run(fakes.job(tmp_path / "b", seed=2))
    assert fakes.bits(tmp_path / "a") != fakes.bits(tmp_path / "b")


def test_a_training_equals_sgd_written_out_by_hand(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "run", noise=0.0))
    expected = fakes.job(tmp_path / "none", noise=0.0)
    weight, speed = expected.method.weight.detach().clone(), None
    for step in range(4 * fakes.STEPS_PER_EPOCH):
        epoch = step // fakes.STEPS_PER_EPOCH
        rate = 1e-5 if epoch == 0 else 0.05 * (1 + math.cos(math.pi * (epoch - 1) / 4))
        batch = expected.stream.batch(epoch, step % fakes.STEPS_PER_EPOCH)
        weight.requires_grad_(True)
        loss = nn.functional.cross_entropy(batch.images @ weight.T, batch.labels) + 0.01 * weight.square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            gradient = gradient + 5e-4 * weight
            speed = gradient if speed is None else 0.9 * speed + gradient
            weight = (weight - rate * speed).detach()
    found = safetensors.torch.load_file(tmp_path / "run" / "prompts.safetensors")["weight"]
    torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-6)


def test_only_learned_parameters_are_saved_and_unused_ones_stay(tmp_path: Path) -> None:
    run(fakes.job(tmp_path))
    saved = safetensors.torch.load_file(tmp_path / "prompts.safetensors")
    assert saved.keys() == {"weight", "unused"}
    assert torch.equal(saved["unused"], torch.ones(3))


def test_metrics_hold_every_named_loss_and_no_times(tmp_path: Path) -> None:
    run(fakes.job(tmp_path, log_every=5))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 5, 10, 15, 20]
    assert [line["epoch"] for line in lines] == [0, 0, 1, 2, 3]
    assert lines[0].keys() == {"step", "epoch", "lr", "real", "decay", "total"}


def test_the_caller_keeps_its_threads_and_random_numbers(tmp_path: Path) -> None:
    made = fakes.job(tmp_path, threads=2)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    run(made)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("step", [1, 3, 4, 9, 19])
def test_a_broken_run_goes_on_to_the_same_bits(tmp_path: Path, step: int) -> None:
    run(fakes.job(tmp_path / "whole"))
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken"), listener=stop_at(step))
    run(fakes.job(tmp_path / "broken"))
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


def test_a_method_is_told_of_every_epoch_that_ends(tmp_path: Path) -> None:
    made = fakes.job(tmp_path / "whole")
    run(made)
    assert made.method.ended == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken"), listener=stop_at(8))
    resumed = fakes.job(tmp_path / "broken")
    run(resumed)  # from step 6, the second of the second epoch
    assert resumed.method.ended == [(2, 4), (3, 4), (4, 4)]


def test_resuming_makes_only_the_steps_after_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path), listener=stop_at(8))
    resumed = fakes.job(tmp_path)
    run(resumed)
    assert resumed.stream.asked[0] == (1, 1)  # step 6, the newest multiple of 3 that was committed
    assert record(tmp_path).notes == ["run 'fake' resumes after step 6 of 20"]


def test_a_run_on_another_file_system_has_the_same_bits_and_resumes(tmp_path: Path) -> None:
    run(fakes.job(tmp_path))
    url = "memory://loop-test/run"
    with pytest.raises(StoppedError):
        run(fakes.job(url), listener=stop_at(8))
    assert run(fakes.job(url)).notes == ["run 'fake' resumes after step 6 of 20"]
    assert {name: storage.read_bytes(f"{url}/{name}") for name in fakes.bits(tmp_path)} == fakes.bits(tmp_path)
    storage.remove("memory://loop-test", recursive=True)


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "whole"))
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken"), listener=stop_at(8))
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "epo')
    run(fakes.job(tmp_path / "broken"))
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


@pytest.mark.fault
@pytest.mark.parametrize(("line", "goes_on"), [(7, 6), (5, 3)])
def test_a_line_of_metrics_that_was_changed_is_written_again_from_a_checkpoint_before_it(
    tmp_path: Path, line: int, goes_on: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fakes.job(tmp_path / "whole", keep_checkpoints=9))
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken", keep_checkpoints=9), listener=stop_at(11))
    file = tmp_path / "broken" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"epoch": 0', b'"epoch": 4').replace(b'"epoch": 1', b'"epoch": 5')
    file.write_bytes(b"".join(lines))
    resumed = run(fakes.job(tmp_path / "broken", keep_checkpoints=9))
    assert "metrics.jsonl lacks lines that checkpoint" in capsys.readouterr().err
    assert f"run 'fake' resumes after step {goes_on} of 20" in resumed.notes
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


@pytest.mark.fault
def test_lost_metrics_cost_no_step_that_a_checkpoint_holds(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "whole"))
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken"), listener=stop_at(11))
    (tmp_path / "broken" / "metrics.jsonl").unlink()
    resumed = run(fakes.job(tmp_path / "broken"))
    assert any("metrics.jsonl lacks lines" in note and "resuming from step 9" in note for note in resumed.notes)
    prompts = [(tmp_path / name / "prompts.safetensors").read_bytes() for name in ("whole", "broken")]
    assert prompts[0] == prompts[1]
    assert [line["step"] for line in metrics(tmp_path / "broken")] == list(range(10, 21))


def test_the_record_of_a_finished_run_holds_the_checksums_of_its_logs(tmp_path: Path) -> None:
    run(fakes.job(tmp_path))
    files = [tmp_path / "metrics.jsonl", *tmp_path.glob("events.*")]
    expected = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    assert record(tmp_path).logs == expected


def test_a_truncated_newest_checkpoint_is_told_of_and_the_one_before_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fakes.job(tmp_path / "whole"))
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken"), listener=stop_at(11))
    newest = tmp_path / "broken" / "checkpoints" / "step-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    run(fakes.job(tmp_path / "broken"))
    assert "step-00000009.safetensors is damaged" in capsys.readouterr().err
    assert record(tmp_path / "broken").notes[1] == "run 'fake' resumes after step 6 of 20"
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


def test_a_checkpoint_by_time_changes_no_bit(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "whole"))
    timed = {"checkpoint_every": 1000, "checkpoint_minutes": 1e-9}
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path / "broken", **timed), listener=stop_at(8))
    assert run(fakes.job(tmp_path / "broken", **timed)).notes == ["run 'fake' resumes after step 7 of 20"]
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


def test_no_checkpoint_by_time_before_its_time(tmp_path: Path) -> None:
    run(fakes.job(tmp_path, checkpoint_every=1000, checkpoint_minutes=60))
    assert not (tmp_path / "checkpoints").exists()


def test_the_record_tells_how_far_a_run_was_at_its_newest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(fakes.job(tmp_path), listener=stop_at(8))
    assert (record(tmp_path).status, record(tmp_path).steps) == ("running", 6)


def kept(folder: Path) -> dict[int, float | None]:
    markers = [json.loads(path.read_text()) for path in (folder / "checkpoints").glob("*.json")]
    return {marker["step"]: marker.get("score") for marker in markers}


def test_the_checkpoint_of_the_lowest_loss_is_kept_and_named(tmp_path: Path) -> None:
    run(fakes.job(tmp_path, keep_best="loss", keep_checkpoints=1))
    totals = [line["total"] for line in metrics(tmp_path)]
    means = {step: sum(totals[step - 3 : step]) / 3 for step in (3, 6, 9, 12, 15, 18)}
    best = min(means, key=lambda step: means[step])
    assert kept(tmp_path) == pytest.approx({step: -means[step] for step in {best, 18}})
    assert record(tmp_path).notes == [f"the best checkpoint by loss is that of step {best} ({means[best]:.4g})"]


def test_the_best_checkpoint_on_validation_images_is_kept(tmp_path: Path) -> None:
    accuracies = iter([50.0, 70.0, 60.0, 10.0, 20.0, 30.0])
    made = fakes.job(tmp_path, keep_best="validation", keep_checkpoints=1)
    run(replace(made, validate=lambda: next(accuracies)))
    assert kept(tmp_path) == {6: 70.0, 18: 30.0}
    assert "by validation is that of step 6 (70)" in record(tmp_path).notes[0]


@pytest.mark.parametrize("step", [1, 7, 16])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits_and_the_same_best(tmp_path: Path, step: int) -> None:
    def ask_at(done: int, *_: object) -> None:
        if done == step:
            shutdown.request()

    def job(name: str) -> Any:
        return fakes.job(tmp_path / name, keep_best="loss", keep_checkpoints=1, log_every=1)

    run(job("unbroken"))
    with pytest.raises(loop.StoppedError, match=f"interrupted after step {step + 1} of "):
        run(job("stopped"), listener=ask_at)
    shutdown.withdraw()
    assert (record(tmp_path / "stopped").status, record(tmp_path / "stopped").steps) == ("interrupted", step + 1)
    assert run(job("stopped")).status == "finished"
    assert fakes.bits(tmp_path / "stopped") == fakes.bits(tmp_path / "unbroken")
    assert kept(tmp_path / "stopped") == kept(tmp_path / "unbroken")
    assert record(tmp_path / "stopped").notes[-1] == record(tmp_path / "unbroken").notes[-1]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(fakes.job(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = fakes.job(tmp_path)
    assert run(again).status == "finished"
    assert again.stream.asked == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert "is finished" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path: Path) -> None:
    poisoned = fakes.job(tmp_path, noise=0.0)
    poisoned.method.poisoned_step = 8
    with pytest.raises(DivergedError, match=r"step 8 \(epoch 2\): loss 'decay' is nan; lower"):
        run(poisoned)
    assert len(metrics(tmp_path)) == 7
    assert torch.isfinite(poisoned.method.weight).all()


@pytest.mark.parametrize("call", [9, 20])
def test_a_gradient_that_is_no_number_reaches_neither_checkpoint_nor_prompts(tmp_path: Path, call: int) -> None:
    poisoned = fakes.job(tmp_path)
    poisoned.method.weight.register_hook(lambda g: g * torch.nan if poisoned.method.calls == call else g)
    with pytest.raises(
        DivergedError, match=rf"after step {call} \(epoch .\): weight contains numbers that are not finite"
    ):
        run(poisoned)
    assert not (tmp_path / "prompts.safetensors").exists()
    newest = safetensors.torch.load_file(max((tmp_path / "checkpoints").glob("*.safetensors")))
    assert all(tensor.isfinite().all() for tensor in newest.values())


def test_a_method_that_learns_nothing_finishes_at_once(tmp_path: Path) -> None:
    made = fakes.job(tmp_path)
    made.method.requires_grad_(False)
    assert run(made).total_steps == 0
    assert safetensors.torch.load_file(tmp_path / "prompts.safetensors") == {}
    assert record(tmp_path).status == "finished"


def test_the_record_tells_recipe_versions_and_state(tmp_path: Path) -> None:
    run(fakes.job(tmp_path))
    found = record(tmp_path)
    assert (found.status, found.steps, found.total_steps) == ("finished", 20, 20)
    assert found.recipe_hash == "a" * 64
    assert found.versions["torch"] == torch.__version__.split("+")[0] or found.versions["torch"] == torch.__version__
    assert found.versions.keys() == {"python", "syncclip", "torch", "open_clip_torch", "ray"}


def test_tensorboard_reads_the_losses(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(fakes.job(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss/total")}
    assert found == pytest.approx({line["step"]: line["total"] for line in metrics(tmp_path)}, rel=1e-6)


def test_what_could_not_be_read_is_named_in_the_record_apart_from_empty_shards(tmp_path: Path) -> None:
    made = fakes.job(tmp_path)
    made.stream.corruption = Corruption(8)
    for name, images in (("a.jpg", 1), ("00001.tar", 0), ("b.tar", 6)):
        made.stream.corruption.skip(name, "so it is", images)
    assert run(made).notes == [
        "7 unreadable image(s) were replaced by others of their class: a.jpg, b.tar",
        "1 shard without any image skipped: 00001.tar",
    ]


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"workers is 4, but a batch of 6 .* use 3 worker"):
        run(fakes.job(tmp_path), rank=0, world_size=4)


def test_prompts_of_a_run_are_put_into_a_method(tmp_path: Path) -> None:
    trained, fresh = fakes.job(tmp_path), fakes.job(tmp_path, seed=2)
    run(trained)
    load_prompts(trained.run, fresh.method)
    assert torch.equal(fresh.method.weight, trained.method.weight)


@pytest.mark.fault
def test_prompts_that_are_no_numbers_or_were_changed_are_refused_by_their_file(tmp_path: Path) -> None:
    trained, place = fakes.job(tmp_path), tmp_path / "prompts.safetensors"
    run(trained)
    whole = place.read_bytes()
    place.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"prompts\.safetensors is corrupt"):
        load_prompts(trained.run, trained.method)
    tensors = {**safetensors.torch.load(whole), "unused": torch.tensor([1.0, torch.nan, 1.0])}
    storage.write_with_checksum(str(place), safetensors.torch.save(tensors), owner=trained.run.owner)
    with pytest.raises(UserError, match=r"prompts\.safetensors: unused contains numbers that are not finite"):
        load_prompts(trained.run, trained.method)


def test_prompts_of_another_method_are_refused(tmp_path: Path) -> None:
    trained = fakes.job(tmp_path)
    run(trained)
    other = fakes.FakeMethod()
    other.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="another method or backbone"):
        load_prompts(trained.run, other)


def test_prompts_that_are_not_there_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains no prompts\.safetensors; train first"):
        load_prompts(fakes.job(tmp_path).run, fakes.FakeMethod())


WAITING_TRAINING = """
import sys, time
sys.path.insert(0, sys.argv[2])
from tests.training import fakes
from syncclip.training.loop import run
run(fakes.job(sys.argv[1]), listener=lambda done, *_: time.sleep(600 if done == 12 else 0.05))
"""


@pytest.mark.fault
def test_a_training_killed_at_half_time_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "whole"))
    broken = tmp_path / "broken"
    process = subprocess.Popen([sys.executable, "-c", WAITING_TRAINING, str(broken), str(Path(__file__).parents[2])])
    try:
        while not (broken / "metrics.jsonl").exists() or len((broken / "metrics.jsonl").read_bytes().splitlines()) < 10:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (broken / "prompts.safetensors").exists()
    run(fakes.job(broken))
    assert fakes.bits(broken) == fakes.bits(tmp_path / "whole")


def test_a_training_that_is_all_warm_up_is_noted_once(tmp_path: Path) -> None:
    for _ in range(2):
        notes = run(fakes.job(tmp_path, epochs=1)).notes
        assert len(notes) == 1 and notes[0].startswith("training.epochs=1 is all warm-up (training.warmup_epochs=1)")
    assert run(fakes.job(tmp_path / "without", epochs=1, warmup_epochs=0)).notes == []
