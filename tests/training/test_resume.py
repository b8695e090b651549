"""Trainings with the real methods resume bit for bit, including optimisers, averages, caches and stages."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from syncclip.methods import MethodSettings
from syncclip.methods.classmeans import ClassMeans
from syncclip.methods.cliplora import ClipLora
from syncclip.methods.mma import Mma
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.probe import Probe
from syncclip.methods.promptsrc import PromptSrc
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.tcp import Tcp
from syncclip.methods.tip import Tip
from syncclip.stream.loader import LostLoaderError
from syncclip.stream.order import BatchIds
from syncclip.training.loop import TrainJob, run
from tests.training import fakes, worlds
from tests.training.processes import exit_code

CASES: dict[str, tuple[str, str, MethodSettings | None]] = {
    "ivlp on real": ("ivlp", "real", None),
    "ivlp on synthetic": ("ivlp", "synthetic", None),
    "syncclip": ("syncclip", "both", None),
    "syncclip with class vectors": ("syncclip", "both", SyncClip.Settings(class_vectors=True)),
    "promptsrc": (
        "promptsrc",
        "both",
        PromptSrc.Settings(templates=("a {}.", "the {}."), aggregation_mean=1.0, aggregation_std=2.0),
    ),
    "probe": ("probe", "both", Probe.Settings(constraint=True)),
    "tip": ("tip", "both", Tip.Settings(views=2, cache_size=3)),
    "tip without training": ("tip", "both", Tip.Settings(views=2, cache_size=3, finetune=False)),
    "classmeans": ("classmeans", "both", ClassMeans.Settings(views=2)),
    "cliplora": ("cliplora", "both", ClipLora.Settings(domain_rank=1)),
    "twostage": ("twostage", "both", None),
    "mma": ("mma", "both", Mma.Settings(scale=0.1)),
    "mmrl": ("mmrl", "both", Mmrl.Settings(layers=(2, 3), tokens=2, dim=8, domain_tokens=1)),
    "tcp": ("tcp", "both", Tcp.Settings(block=2)),
}
"""Method, data and settings of the method."""

TRAINED = [name for name in CASES if name not in ("tip without training", "classmeans")]
Uninterrupted = Callable[[str], Path]


def job(world: Path, folder: Path, name: str) -> TrainJob:
    method, data, own = CASES[name]
    return worlds.job(world, folder, method, own=own, data=data)


@pytest.fixture(scope="module")
def uninterrupted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """(case) -> folder of its uninterrupted run."""
    parent = tmp_path_factory.mktemp("uninterrupted")

    def folder(name: str) -> Path:
        run(job(world, parent / name, name))
        return parent / name

    return folder


@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.nightly) for step in (1, 2, 3, 4, 7, 8))])
@pytest.mark.parametrize("name", TRAINED)
def test_crashed_training_resumes_to_the_same_bits(
    world: Path, uninterrupted: Uninterrupted, tmp_path: Path, name: str, step: int
) -> None:
    """Of nine steps; 2SFS switches stages and epoch 2 ends around step 5."""
    fakes.crash_at(job(world, tmp_path, name), step)
    torch.rand(3)  # the generator's state must not matter
    run(job(world, tmp_path, name))
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted(name))


@pytest.mark.parametrize(("name", "method"), [("promptsrc", PromptSrc), ("probe", Probe)])
def test_memory_is_required_to_resume(
    world: Path,
    uninterrupted: Uninterrupted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    method: type[PromptSrc | Probe],
) -> None:
    reference = fakes.bits(uninterrupted(name))
    monkeypatch.setattr(method, "memory", lambda _: {})
    fakes.crash_at(job(world, tmp_path, name), 5)
    run(job(world, tmp_path, name))
    assert fakes.bits(tmp_path)["prompts.safetensors"] != reference["prompts.safetensors"]


@pytest.mark.parametrize("name", ["probe", "tip"])
def test_resumed_training_skips_the_preparation(
    world: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.crash_at(job(world, tmp_path, name), 5)
    resumed = job(world, tmp_path, name)
    monkeypatch.setattr(resumed.method, "prepare", None)
    assert run(resumed).status == "finished"


def kill_in_step_five(made: TrainJob) -> None:
    run(made, listener=lambda done, *_: os.kill(os.getpid(), signal.SIGKILL) if done == 5 else None)


def kill_in_view(made: TrainJob, view: int) -> None:
    """Kill the process while it reads the second batch of a view for `prepare`."""
    original = made.stream._read

    def read(ids: BatchIds, epoch: int, step: int, at: int) -> object:
        if (step, at) == (1, view):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(ids, epoch, step, at)

    made.stream._read = read
    run(made)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "kill", "args"),
    [
        ("promptsrc", kill_in_step_five, ()),
        ("probe", kill_in_view, (0,)),
        ("tip", kill_in_view, (1,)),
        ("tip without training", kill_in_view, (1,)),
        ("classmeans", kill_in_view, (1,)),
    ],
)
def test_killed_training_resumes_to_the_same_bits(
    world: Path,
    uninterrupted: Uninterrupted,
    tmp_path: Path,
    name: str,
    kill: Callable[..., None],
    args: tuple[int, ...],
) -> None:
    assert exit_code(kill, job(world, tmp_path, name), *args) == -signal.SIGKILL
    assert not (tmp_path / "prompts.safetensors").exists()
    run(job(world, tmp_path, name))
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted(name))


@pytest.mark.fault
def test_killed_loader_process_is_reported_and_the_run_resumes(
    world: Path, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    killed = worlds.job(world, tmp_path, "syncclip", loader_processes=2)
    worlds.kill_loader_once(killed, 4, tmp_path / "killed")
    with pytest.raises(LostLoaderError, match=r"^a loader process exited unexpectedly .*training.loader_processes"):
        run(killed)
    resumed = run(worlds.job(world, tmp_path, "syncclip", loader_processes=2))
    assert resumed.notes[0].startswith("run 'fake' resumes")
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted("syncclip"))


def test_prefetching_changes_no_bit(world: Path, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    run(worlds.job(world, tmp_path, "syncclip", prefetch_threads=3))
    assert fakes.bits(tmp_path) == fakes.bits(uninterrupted("syncclip"))
