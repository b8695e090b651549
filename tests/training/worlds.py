"""Training jobs with the real stream and methods, on a tiny dataset, synthetic dataset and CLIP with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.transforms import train_transform
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.methods import Method, MethodSettings, build_method
from syncclip.methods.base import TrainingBatch
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.stream.mixed import MixedStream
from syncclip.stream.sources import MixedSource
from syncclip.training.loop import TrainJob
from syncclip.training.settings import TrainingSettings
from tests.training import fakes
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import CLASSES, encoded, make_image, tiny_dataset
from tests.worlds.loaders import kill_once

PER_CLASS, SHARDS = 4, 2


def make(folder: Path) -> Path:
    """Write `dataset/`, `clip/` and `synthetic/` into a folder."""
    tiny_dataset(folder / "dataset", train=3, val=1, test=3)
    make_clip_folder(folder / "clip")
    per_shard = PER_CLASS // SHARDS
    for shard in range(SHARDS):
        samples = [
            Sample(
                index=(shard * per_shard + i) * len(CLASSES) + label,
                label=label,
                image_bytes=encoded(
                    make_image(label, 500 + shard * per_shard + i).transpose(Image.Transpose.ROTATE_90)
                ),
                text=CLASSES[label],
                provenance={},
            )
            for i in range(per_shard)
            for label in range(len(CLASSES))
        ]
        write_shard(str(folder / "synthetic"), shard, samples)
    return folder


def parts(
    world: Path, method: str, seed: int = 1, own: MethodSettings | None = None
) -> tuple[Dataset, Method, Callable[[Image.Image], Tensor]]:
    dataset = load_dataset(DatasetSettings(name=str(world / "dataset")))
    backbone = load_backbone(BackboneSettings(name=str(world / "clip")))
    return dataset, build_method(method, PromptedClip(backbone), dataset, own, seed), backbone.preprocess


def job(
    world: Path,
    folder: Path,
    method: str,
    rank: int = 0,
    world_size: int = 1,
    own: MethodSettings | None = None,
    **changes: Any,
) -> TrainJob:
    """A training of three epochs of three steps, each with 4 of the 9 few-shot images.

    Args:
        own: settings of the method.
        changes: changed settings of the training.
    """
    values = {"method": method, "epochs": 3, "batch_size": 4, "checkpoint_every": 2} | changes
    settings = TrainingSettings(**values)
    dataset, built, _ = parts(world, method, settings.seed, own)
    stream = MixedStream(
        [MixedSource(dataset.split("train"), rows=dataset.few_shot(3, settings.seed))],
        [] if settings.data == "real" else [MixedSource(ShardSet(str(world / "synthetic")))],
        transform=train_transform(built.clip.backbone, settings.crop_scale, settings.flip_probability),
        batch=settings.batch_size,
        seed=settings.seed,
        base=dataset.base,
        novel=dataset.novel,
        data=settings.data,
        rank=rank,
        world_size=world_size,
    )
    return TrainJob(fakes.folder(folder), built, stream, settings, rate=0.05, optimisation=built.settings.optimisation)


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """Build function of a training on Ray."""
    torch.manual_seed(rank)  # the state of a process must not matter
    made = job(Path(spec["world"]), Path(spec["url"]), spec["method"], rank, world_size, **spec["settings"])
    if "kill_loader_at" in spec:
        kill_loader_once(made, spec["kill_loader_at"], Path(spec["url"] + ".killed"))
    return made


def kill_loader_once(made: TrainJob, step: int, mark: Path) -> None:
    """Kill one of this process's loader processes after `step` began, counted from this start."""
    original, kill, calls = made.method.loss, kill_once(made.stream, mark), itertools.count(1)

    def loss(batch: TrainingBatch) -> dict[str, Tensor]:
        if next(calls) == step:
            kill()
        return original(batch)

    made.method.loss = loss  # type: ignore[method-assign]
