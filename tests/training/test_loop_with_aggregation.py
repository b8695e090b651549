"""PromptSRC's average over the epochs is part of a training's state: it survives whatever the prompts survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from syncclip.methods.promptsrc import PromptSrc, gaussian_weights
from syncclip.training.loop import TrainJob, load_prompts, run
from tests.training import fakes, worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(job(world, folder))
    return folder


def job(world: Path, folder: Path) -> TrainJob:
    """Three epochs of three steps, a checkpoint every other step; every epoch counts in the average."""
    own = PromptSrc.Settings(templates=("a {}.", "the {}."), aggregation_mean=1.0, aggregation_std=2.0)
    return worlds.job(world, folder, "promptsrc", own=own)


class StoppedError(Exception):
    pass


def broken(world: Path, folder: Path, step: int) -> None:
    """A training that ends after a step, as by a crash."""

    def listener(done: int, *_: object) -> None:
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(job(world, folder), listener=listener)


@pytest.mark.parametrize("step", [2, 3, 4, 7])
def test_a_training_broken_anywhere_ends_with_the_bits_of_an_unbroken_one(
    world: Path, whole: Path, tmp_path: Path, step: int
) -> None:
    broken(world, tmp_path, step)
    run(job(world, tmp_path))
    assert fakes.bits(tmp_path) == fakes.bits(whole)


def test_a_training_that_forgot_its_average_would_not(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptSrc, "memory", lambda method: {})
    broken(world, tmp_path, 5)
    run(job(world, tmp_path))
    ours, theirs = fakes.bits(tmp_path), fakes.bits(whole)
    assert ours["metrics.jsonl"] == theirs["metrics.jsonl"]
    assert ours["prompts.safetensors"] != theirs["prompts.safetensors"]


KILLED_TRAINING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from syncclip.training.loop import run
from tests.training.test_loop_with_aggregation import job
def die(done, *_):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
run(job(Path(sys.argv[1]), Path(sys.argv[2])), listener=die)
"""


@pytest.mark.fault
def test_a_training_killed_in_mid_epoch_ends_with_the_bits_of_an_unbroken_one(
    world: Path, whole: Path, tmp_path: Path
) -> None:
    arguments = [str(world), str(tmp_path), str(Path(__file__).parents[2])]
    ended = subprocess.run([sys.executable, "-c", KILLED_TRAINING, *arguments], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "prompts.safetensors").exists()
    run(job(world, tmp_path))
    assert fakes.bits(tmp_path) == fakes.bits(whole)


def test_the_results_are_the_mean_of_the_prompts_after_each_epoch(
    world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        PromptSrc,
        "epoch_ended",
        lambda method, *_: after.append({name: p.detach().clone() for name, p in method.named_parameters()}),
    )
    run(job(world, tmp_path))
    weights = gaussian_weights(len(after), 1.0, 2.0)
    saved = safetensors.torch.load_file(whole / "prompts.safetensors")
    assert saved.keys() == after[0].keys()
    for name, value in saved.items():
        expected = sum(weight * prompts[name] for weight, prompts in zip(weights, after, strict=True))
        torch.testing.assert_close(value, expected)
        assert not torch.equal(value, after[-1][name])


def test_the_trained_method_has_the_averaged_prompts(world: Path, whole: Path, tmp_path: Path) -> None:
    trained = job(world, tmp_path)
    run(trained)
    loaded = job(world, tmp_path).method
    load_prompts(job(world, whole).run, loaded)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(trained.method.logits(images), loaded.logits(images))
