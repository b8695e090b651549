"""A method and a stream of the shape that training needs, small enough to check by hand, and jobs made of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from syncclip import storage
from syncclip.shards.images import Corruption
from syncclip.training.loop import TrainJob
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
    """Batch `step` of `epoch` is a pure function of both; a rank takes positions rank, rank + world size, ..."""

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, batch: int, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.rank, self.world_size = batch, rank, world_size
        self.asked: list[tuple[int, int]] = []
        self.corruption = Corruption(0)

    def share_seen(self, epochs: int) -> float:
        return 1.0

    def batch(self, epoch: int, step: int) -> FakeBatch:
        self.asked.append((epoch, step))
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        images = torch.randn(self.size, PIXELS, generator=generator)
        labels = torch.randint(CLASSES, (self.size,), generator=generator)
        mine = slice(self.rank, None, self.world_size)
        return FakeBatch(images[mine], labels[mine])

    def batches(self, epochs: int, epoch: int, step: int, **_: object) -> Iterator[tuple[int, int, FakeBatch]]:
        for place in range(epoch * STEPS_PER_EPOCH + step, epochs * STEPS_PER_EPOCH):
            yield *divmod(place, STEPS_PER_EPOCH), self.batch(*divmod(place, STEPS_PER_EPOCH))


class FakeMethod(nn.Module):
    """A linear classifier on noisy images, beside something frozen and something that is never used."""

    prepares, trains = 0, True

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


def settings(**changes: Any) -> TrainingSettings:
    values = {"epochs": 4, "batch_size": 6, "checkpoint_every": 3, "trackers": ["tensorboard"]}
    return TrainingSettings(**(values | changes))


def folder(url: str | Path, recipe: str = "a" * 64, text: str = "") -> RunFolder:
    return RunFolder(str(url), "fake", recipe, text)


def job(url: str | Path, rank: int = 0, world_size: int = 1, noise: float = 0.1, **changes: Any) -> TrainJob:
    chosen = settings(**changes)
    torch.manual_seed(chosen.seed)
    stream = FakeStream(chosen.batch_size, rank, world_size)
    return TrainJob(folder(url), FakeMethod(noise), stream, chosen, rate=0.1)


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """What a worker of Ray Train builds from plain data."""
    storage.configure(spec.get("storage", {}))
    made = job(spec["url"], rank, world_size, spec.get("noise", 0.1), **spec.get("settings", {}))
    if "poisoned_step" in spec:
        made.method.poisoned_step = spec["poisoned_step"]
    if "kill_once_at" in spec:
        mark = Path(spec.get("mark", spec["url"] + ".killed"))
        _kill_once(made, spec["kill_once_at"], mark, spec.get("kill_rank", 0) == rank, spec.get("cuts", False))
    if "pause_at" in spec:
        _pause(made, spec["pause_at"])
    if str(world_size) in spec.get("pause_with", {}):
        _pause(made, spec["pause_with"][str(world_size)])
    return made


def _pause(made: TrainJob, call: int) -> None:
    """Wait in a step, to be killed."""
    honest = made.method.loss

    def loss(batch: FakeBatch) -> dict[str, Tensor]:
        if made.method.calls == call:
            time.sleep(600)
        return honest(batch)

    made.method.loss = loss


def _kill_once(made: TrainJob, call: int, mark: Path, mine: bool, cuts: bool) -> None:
    """Kill this process with -9 in a step, and if `cuts` cut the newest checkpoint short before."""
    honest = made.method.loss

    def loss(batch: FakeBatch) -> dict[str, Tensor]:
        if mine and made.method.calls == call and not mark.exists():
            mark.write_text("")
            if cuts:
                cut_newest(made.run.url)
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(batch)

    made.method.loss = loss


def cut_newest(url: str) -> None:
    """Take the last bytes away from a run's newest checkpoint."""
    checkpoints = storage.join(url, CHECKPOINTS)
    newest = storage.join(checkpoints, [name for name in storage.listdir(checkpoints) if name.endswith("tensors")][-1])
    storage.write_bytes(newest, storage.read_bytes(newest)[:-7])


def bits(url: str | Path) -> dict[str, bytes]:
    """What must be equal in two runs of one recipe."""
    return {name: storage.read_bytes(f"{url}/{name}") for name in ("prompts.safetensors", "metrics.jsonl")}
