"""A small method and stream, and training jobs that use them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from syncclip import storage
from syncclip.shards.images import Corruption
from syncclip.training.loop import TrainJob, run
from syncclip.training.run_folder import CHECKPOINTS, RunFolder
from syncclip.training.settings import TrainingSettings

CLASSES, PIXELS, STEPS_PER_EPOCH = 4, 6, 5


@dataclass(frozen=True)
class FakeBatch:
    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> FakeBatch:
        return FakeBatch(self.images.to(device), self.labels.to(device))


class FakeStream:
    """Batches that are a function of epoch and step; a rank takes the rows rank, rank + world size, ..."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, batch: int, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.rank, self.world_size = batch, rank, world_size
        self.requested: list[tuple[int, int]] = []
        self.corruption = Corruption(0)
        self.order = SimpleNamespace(share_seen=lambda epochs: 1.0)

    def batch(self, epoch: int, step: int, view: int = 0) -> FakeBatch:
        self.requested.append((epoch, step))
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        images = torch.randn(self.size, PIXELS, generator=generator)
        labels = torch.randint(CLASSES, (self.size,), generator=generator)
        rows = slice(self.rank, None, self.world_size)
        return FakeBatch(images[rows], labels[rows])

    def batches(self, epochs: int, epoch: int, step: int, **_: object) -> Iterator[tuple[int, int, FakeBatch]]:
        for number in range(epoch * STEPS_PER_EPOCH + step, epochs * STEPS_PER_EPOCH):
            yield *divmod(number, STEPS_PER_EPOCH), self.batch(*divmod(number, STEPS_PER_EPOCH))


class FakeMethod(nn.Module):
    """A linear classifier on noisy images, with a frozen and an unused parameter."""

    prepares, prepares_all, trains = 0, False, True

    def __init__(self, noise: float = 0.1, poisoned_step: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, PIXELS))
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.noise, self.poisoned_step, self.calls = noise, poisoned_step, 0
        self.ended: list[tuple[int, int]] = []

    def step_begins(self, step: int, steps: int) -> None:
        pass

    def epoch_ended(self, done: int, epochs: int) -> None:
        self.ended.append((done, epochs))

    def memory(self) -> dict[str, Tensor]:
        return {}

    def loss(self, batch: FakeBatch) -> dict[str, Tensor]:
        images = batch.images + self.noise * torch.randn_like(batch.images)
        real = nn.functional.cross_entropy(images @ self.weight.T, batch.labels)
        self.calls += 1
        decay = (0.01 if self.calls != self.poisoned_step else torch.nan) * self.weight.square().mean()
        return {"real": real, "decay": decay, "total": real + decay}


class Crash(Exception):  # noqa: N818
    """Simulates a crash of the training."""


def crash_at(job: TrainJob, step: int) -> None:
    """Run a training that crashes after `step` was logged."""

    def listener(done: int, *_: object) -> None:
        if done == step:
            raise Crash

    with pytest.raises(Crash):
        run(job, listener=listener)


def settings(**changes: Any) -> TrainingSettings:
    values = {"epochs": 4, "batch_size": 6, "checkpoint_every": 3, "trackers": ["tensorboard"]}
    return TrainingSettings(**(values | changes))


def folder(url: str | Path, recipe: str = "a" * 64, text: str = "") -> RunFolder:
    return RunFolder(str(url), "fake", recipe, text)


def job(url: str | Path, rank: int = 0, world_size: int = 1, noise: float = 0.1, **changes: Any) -> TrainJob:
    resolved = settings(**changes)
    torch.manual_seed(resolved.seed)
    stream = FakeStream(resolved.batch_size, rank, world_size)
    return TrainJob(folder(url), FakeMethod(noise), stream, resolved, rate=0.1)


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """Build function of a training on Ray."""
    storage.configure(spec.get("storage", {}))
    made = job(spec["url"], rank, world_size, spec.get("noise", 0.1), **spec.get("settings", {}))
    made.method.poisoned_step = spec.get("poisoned_step")
    mark = Path(spec.get("mark", spec["url"] + ".killed"))

    def kill() -> None:
        if not mark.exists():
            mark.touch()
            if spec.get("truncates"):
                truncate_newest(made.run.url)
            os.kill(os.getpid(), signal.SIGKILL)

    if "kill_once_at" in spec and spec.get("kill_rank", 0) == rank:
        before_call(made, spec["kill_once_at"], kill)
    for call in (spec.get("pause_at"), spec.get("pause_with", {}).get(str(world_size))):
        if call is not None:
            before_call(made, call, lambda: time.sleep(600))
    return made


def before_call(made: TrainJob, call: int, action: Callable[[], object]) -> None:
    """Run an action in the step after `call` steps of this start."""
    original = made.method.loss

    def loss(batch: FakeBatch) -> dict[str, Tensor]:
        if made.method.calls == call:
            action()
        return original(batch)

    made.method.loss = loss


def truncate_newest(url: str) -> None:
    """Truncate the newest checkpoint of a run."""
    checkpoints = storage.join(url, CHECKPOINTS)
    newest = storage.join(checkpoints, [name for name in storage.listdir(checkpoints) if name.endswith("tensors")][-1])
    storage.write_bytes(newest, storage.read_bytes(newest)[:-7])


def bits(url: str | Path) -> dict[str, bytes]:
    """The files that must be equal in two runs of a recipe."""
    return {name: storage.read_bytes(f"{url}/{name}") for name in ("prompts.safetensors", "metrics.jsonl")}
