"""Trainings of methods with hooks: PromptSRC's average over epochs, and preparation before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.nn.functional import normalize

from syncclip.clip.transforms import train_transform
from syncclip.methods import MethodSettings
from syncclip.methods.classmeans import ClassMeans
from syncclip.methods.probe import Probe
from syncclip.methods.promptsrc import PromptSrc, gaussian_weights
from syncclip.methods.tip import Tip
from syncclip.shards.reader import ShardSet
from syncclip.training.loop import TrainJob, load_prompts, run
from tests.training import worlds
from tests.training.processes import run_ranks

AVERAGED = PromptSrc.Settings(templates=("a {}.",), aggregation_mean=1.0, aggregation_std=2.0)
PREPARED: dict[str, tuple[str, MethodSettings]] = {
    "probe": ("probe", Probe.Settings(constraint=True)),
    "tip": ("tip", Tip.Settings(views=2, cache_size=3)),
    "cache": ("tip", Tip.Settings(views=2, cache_size=3, finetune=False)),
    "large": ("tip", Tip.Settings(views=1, cache_size=9, finetune=False)),
    "classmeans": ("classmeans", ClassMeans.Settings(views=2)),
}


def job(
    world: Path, folder: Path, name: str, rank: int = 0, world_size: int = 1, data: str = "both", **changes: Any
) -> TrainJob:
    method, own = PREPARED[name]
    return worlds.job(world, folder, method, rank, world_size, own=own, data=data, **changes)


def prompts(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "prompts.safetensors")


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    for name in ("tip", "cache"):
        run(job(world, folder / name, name))
    return folder


def test_result_is_the_weighted_mean_of_the_prompts_after_each_epoch(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = worlds.job(world, tmp_path / "averaged", "promptsrc", own=AVERAGED)
    run(trained)
    loaded = worlds.job(world, tmp_path / "averaged", "promptsrc", own=AVERAGED)
    load_prompts(loaded.run, loaded.method)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(trained.method.logits(images), loaded.method.logits(images))

    epochs: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        PromptSrc,
        "epoch_ended",
        lambda method, *_: epochs.append({name: p.detach().clone() for name, p in method.named_parameters()}),
    )
    run(worlds.job(world, tmp_path / "plain", "promptsrc", own=AVERAGED))
    weights = gaussian_weights(len(epochs), 1.0, 2.0)
    for name, value in prompts(tmp_path / "averaged").items():
        expected = sum(weight * epoch[name] for weight, epoch in zip(weights, epochs, strict=True))
        torch.testing.assert_close(value, expected)
        assert not torch.equal(value, epochs[-1][name])


def test_cache_without_finetuning_is_a_finished_run_of_no_steps(world: Path, finished: Path) -> None:
    record = json.loads((finished / "cache" / "run.json").read_text())
    assert (record["status"], record["steps"], record["total_steps"]) == ("finished", 0, 0)
    assert (finished / "cache" / "metrics.jsonl").read_bytes() == b""


def test_finetuning_starts_from_the_cache_and_changes_all_keys(finished: Path) -> None:
    cached, trained = prompts(finished / "cache")["keys"], prompts(finished / "tip")["keys"]
    filled = (cached != 0).any(dim=-1)
    assert filled.any(dim=1).all(), "synthetic images fill slots of all classes"
    assert torch.equal((trained != cached).any(dim=-1), filled)


@pytest.mark.parametrize("name", ["tip", "cache", "classmeans"])
def test_preparation_reads_every_synthetic_image(world: Path, tmp_path: Path, name: str) -> None:
    trained = job(world, tmp_path, name)
    assert trained.stream is not None and trained.stream.order.share_seen(1) < 1
    run(trained)
    assert json.loads((tmp_path / "run.json").read_text())["seen"] == 1.0


def test_each_image_fills_one_slot_of_a_large_cache(world: Path, tmp_path: Path) -> None:
    run(job(world, tmp_path, "large"))  # three shots of three base classes, four synthetic images of six classes
    assert (prompts(tmp_path)["keys"] != 0).any(dim=-1).sum(dim=1).tolist() == [7, 7, 7, 4, 4, 4]


def test_class_means_are_those_of_all_images(world: Path, tmp_path: Path) -> None:
    """Views without augmentation, compared with a mean over the files of both datasets."""
    trained = job(world, tmp_path, "classmeans", crop_scale=(1.0, 1.0), flip_probability=0.0)
    run(trained)
    dataset, method, _ = worlds.parts(world, "classmeans")
    real, synthetic = dataset.split("train"), ShardSet(str(world / "synthetic"))
    images = [(real, row) for row in dataset.few_shot(3, trained.settings.seed)]
    images += [(synthetic, row) for row in range(len(synthetic))]
    transform = train_transform(method.clip.backbone, (1.0, 1.0), 0.0)
    pixels = torch.stack([transform(source.image(row), torch.Generator()) for source, row in images])
    with torch.no_grad():
        features = normalize(method.image_features(pixels), dim=-1)
    labels = torch.tensor([int(source.labels[row]) for source, row in images])
    for label, mean in enumerate(prompts(tmp_path)["means"]):
        torch.testing.assert_close(mean, normalize(features[labels == label].mean(dim=0), dim=-1), rtol=0, atol=1e-5)


def test_real_images_fill_one_slot_each(world: Path, tmp_path: Path) -> None:
    run(job(world, tmp_path, "cache", data="real"))  # three shots of three base classes, in batches of four
    assert (prompts(tmp_path)["keys"] != 0).any(dim=-1).sum(dim=1).tolist() == [3, 3, 3, 0, 0, 0]


RUNS = [("probe", "both"), ("tip", "both"), ("cache", "real"), ("classmeans", "both")]


def _train_all(rank: int, world_size: int, folder: Path, world: Path) -> None:
    for name, data in RUNS:
        run(job(world, folder / f"{name}-{data}", name, rank, world_size, data), rank, world_size)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_several_ranks_prepare_and_train_like_one(world: Path, tmp_path: Path, world_size: int) -> None:
    run_ranks(_train_all, world_size, tmp_path, world)
    for name, data in RUNS:
        run(job(world, tmp_path / "single" / name, name, data=data))
        single, several = prompts(tmp_path / "single" / name), prompts(tmp_path / f"{name}-{data}")
        torch.testing.assert_close(several, single, rtol=0, atol=1e-5)
