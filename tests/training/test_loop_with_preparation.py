"""What a method makes of its images before the first step is part of a training, and may be all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from syncclip.methods import MethodSettings
from syncclip.methods.probe import Probe
from syncclip.methods.tip import Tip
from syncclip.training.loop import TrainJob, load_prompts, run
from tests.training import fakes, worlds

OWN: dict[str, tuple[str, MethodSettings]] = {
    "probe": ("probe", Probe.Settings(constraint=True)),
    "tip": ("tip", Tip.Settings(views=2, cache_size=3)),
    "cache": ("tip", Tip.Settings(views=2, cache_size=3, finetune=False)),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name in OWN:
        run(job(world, folder / name, name))
    return folder


def job(world: Path, folder: Path, name: str, rank: int = 0, world_size: int = 1, data: str = "both") -> TrainJob:
    method, own = OWN[name]
    return worlds.job(world, folder, method, rank, world_size, own=own, data=data)


class StoppedError(Exception):
    pass


def broken(world: Path, folder: Path, name: str, step: int) -> None:
    """A training that ends after a step, as by a crash."""

    def listener(done: int, *_: object) -> None:
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(job(world, folder, name), listener=listener)


@pytest.mark.parametrize("step", [1, 3, 8])
@pytest.mark.parametrize("name", ["probe", "tip"])
def test_a_training_broken_anywhere_ends_with_the_bits_of_an_unbroken_one(
    world: Path, whole: Path, tmp_path: Path, name: str, step: int
) -> None:
    broken(world, tmp_path, name, step)
    run(job(world, tmp_path, name))
    assert fakes.bits(tmp_path) == fakes.bits(whole / name)


@pytest.mark.parametrize("name", ["probe", "tip"])
def test_a_resumed_training_is_not_prepared_again(
    world: Path, whole: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(world, tmp_path, name, 5)
    resumed = job(world, tmp_path, name)
    monkeypatch.setattr(resumed.method, "prepare", None)
    run(resumed)
    assert fakes.bits(tmp_path) == fakes.bits(whole / name)


def test_a_training_that_forgot_what_it_made_would_end_otherwise(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Probe, "memory", lambda method: {})
    broken(world, tmp_path, "probe", 5)
    run(job(world, tmp_path, "probe"))
    assert fakes.bits(tmp_path) != fakes.bits(whole / "probe")


KILLED_TRAINING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from syncclip.training.loop import run
from tests.training.test_loop_with_preparation import job
killed = job(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4])
right = killed.stream.batch
def batch(epoch, step, view=0):
    if (step, view) == (1, int(sys.argv[5])):
        os.kill(os.getpid(), signal.SIGKILL)
    return right(epoch, step, view)
killed.stream.batch = batch
run(killed)
"""


@pytest.mark.fault
@pytest.mark.parametrize(("name", "view"), [("probe", 0), ("tip", 1), ("cache", 1)])
def test_a_training_killed_while_it_prepares_begins_anew(
    world: Path, whole: Path, tmp_path: Path, name: str, view: int
) -> None:
    arguments = [str(world), str(tmp_path), str(Path(__file__).parents[2]), name, str(view)]
    ended = subprocess.run([sys.executable, "-c", KILLED_TRAINING, *arguments], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "prompts.safetensors").exists()
    run(job(world, tmp_path, name))
    assert fakes.bits(tmp_path) == fakes.bits(whole / name)


def test_a_cache_that_is_not_trained_is_a_finished_run_without_steps(world: Path, whole: Path, tmp_path: Path) -> None:
    record = json.loads((whole / "cache" / "run.json").read_text())
    assert (record["status"], record["steps"], record["total_steps"]) == ("finished", 0, 0)
    assert (whole / "cache" / "metrics.jsonl").read_bytes() == b""
    trained, loaded = job(world, tmp_path, "cache"), job(world, tmp_path, "cache")
    run(trained)
    load_prompts(job(world, whole / "cache", "cache").run, loaded.method)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(trained.method.logits(images), loaded.method.logits(images))


def test_of_synthetic_images_such_a_run_has_seen_those_of_the_epoch_in_its_cache(world: Path, whole: Path) -> None:
    stream = job(world, whole, "cache").stream
    assert stream is not None
    records = {name: json.loads((whole / name / "run.json").read_text()) for name in ("cache", "tip")}
    assert records["cache"]["seen"] == stream.share_seen(1) < records["tip"]["seen"] == stream.share_seen(3)


def test_what_is_trained_starts_as_the_cache_and_leaves_it(whole: Path) -> None:
    kept, trained = (safetensors.torch.load_file(whole / name / "prompts.safetensors") for name in ("cache", "tip"))
    filled = (kept["keys"] != 0).any(dim=-1)
    assert filled.any(dim=1).all(), "with synthetic images of novel classes all have keys"
    assert torch.equal((trained["keys"] != kept["keys"]).any(dim=-1), filled)


def test_real_images_alone_fill_the_slots_of_their_classes_each_once(world: Path, tmp_path: Path) -> None:
    run(job(world, tmp_path, "cache", data="real"))  # three shots of three base classes: nine images, four a step
    keys = safetensors.torch.load_file(tmp_path / "prompts.safetensors")["keys"]
    assert (keys != 0).any(dim=-1).sum(dim=1).tolist() == [3, 3, 3, 0, 0, 0]


def _share(rank: int, world_size: int, world: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder / f'meeting{world_size}'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    for name in OWN:
        for data in ("real", "both"):
            run(job(world, folder / f"{name}-{data}", name, rank, world_size, data), rank, world_size)
    dist.barrier()
    os._exit(0)  # on a busy machine gloo's threads may outlive the interpreter


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_several_processes_prepare_and_train_as_one_alone(world: Path, tmp_path: Path, world_size: int) -> None:
    mp.spawn(_share, args=(world_size, world, tmp_path), nprocs=world_size)
    for name in OWN:
        for data in ("real", "both"):
            alone = tmp_path / "alone" / f"{name}-{data}"
            run(job(world, alone, name, data=data))
            for path, ours in safetensors.torch.load_file(alone / "prompts.safetensors").items():
                theirs = safetensors.torch.load_file(tmp_path / f"{name}-{data}" / "prompts.safetensors")[path]
                torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
