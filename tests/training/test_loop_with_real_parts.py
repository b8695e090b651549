"""The loop and the evaluation with the real stream, the real methods and a real, tiny CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from syncclip.evaluation.predict import predict, results
from syncclip.methods import MethodSettings
from syncclip.methods.cliplora import ClipLora
from syncclip.methods.mma import Mma
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.tcp import Tcp
from syncclip.methods.twostage import TwoStage
from syncclip.stream.loader import LostLoaderError
from syncclip.training.loop import load_prompts, run
from syncclip.training.ray_train import train_on_ray
from tests.training import fakes, worlds


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.make(tmp_path_factory.mktemp("world"))


class StoppedError(Exception):
    pass


def stop_after_five(done: int, *_: object) -> None:
    if done == 5:
        raise StoppedError


@pytest.mark.parametrize("data", ["real", "synthetic", "both"])
@pytest.mark.parametrize("method", ["ivlp", "syncclip"])
def test_a_broken_training_ends_with_the_bits_of_an_unbroken_one(
    world: Path, tmp_path: Path, method: str, data: str
) -> None:
    run(worlds.job(world, tmp_path / "whole", method, data=data))
    with pytest.raises(StoppedError):
        run(worlds.job(world, tmp_path / "broken", method, data=data), listener=stop_after_five)
    torch.rand(3)
    run(worlds.job(world, tmp_path / "broken", method, data=data))
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


LATER: dict[str, MethodSettings] = {
    "cliplora": ClipLora.Settings(domain_rank=1),
    "twostage": TwoStage.Settings(),
    "mma": Mma.Settings(scale=0.1),
    "mmrl": Mmrl.Settings(layers=(2, 3), tokens=2, dim=8, domain_tokens=1),
    "tcp": Tcp.Settings(block=2),
}


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for method, own in LATER.items():
        run(worlds.job(world, folder / method, method, own=own))
    return folder


@pytest.mark.parametrize("step", [1, 4, 5, 8])
@pytest.mark.parametrize("method", LATER)
def test_a_training_by_another_optimiser_broken_anywhere_ends_with_the_same_bits(
    world: Path, whole: Path, tmp_path: Path, method: str, step: int
) -> None:
    def listener(done: int, *_: object) -> None:
        if done == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(worlds.job(world, tmp_path, method, own=LATER[method]), listener=listener)
    torch.rand(3)
    run(worlds.job(world, tmp_path, method, own=LATER[method]))
    assert fakes.bits(tmp_path) == fakes.bits(whole / method)


def test_reading_ahead_changes_no_bit(world: Path, tmp_path: Path) -> None:
    for ahead in (0, 3):
        run(worlds.job(world, tmp_path / str(ahead), "syncclip", prefetch_threads=ahead))
    assert fakes.bits(tmp_path / "0") == fakes.bits(tmp_path / "3")


@pytest.mark.fault
def test_a_killed_loader_process_is_told_and_the_same_call_goes_on_to_the_same_bits(
    world: Path, tmp_path: Path
) -> None:
    run(worlds.job(world, tmp_path / "whole", "syncclip"))
    broken = worlds.job(world, tmp_path / "broken", "syncclip", loader_processes=2)
    worlds.kill_loader_once(broken, 4, tmp_path / "killed")
    with pytest.raises(
        LostLoaderError, match=r"^a loader process was lost \(DataLoader worker .*lower training.loader_processes"
    ):
        run(broken)
    assert (
        run(worlds.job(world, tmp_path / "broken", "syncclip", loader_processes=2))
        .notes[0]
        .startswith("run 'fake' resumes")
    )
    assert fakes.bits(tmp_path / "broken") == fakes.bits(tmp_path / "whole")


def test_the_three_losses_of_sync_clip_are_logged_by_name(world: Path, tmp_path: Path) -> None:
    run(worlds.job(world, tmp_path, "syncclip"))
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"step", "epoch", "lr", "real", "synthetic", "alignment", "total"}
    weighted = first["real"] + 0.4 * first["synthetic"] + 0.1 * first["alignment"]
    assert first["total"] == pytest.approx(weighted, rel=1e-6)


def test_training_lowers_the_loss_on_its_own_images(world: Path, tmp_path: Path) -> None:
    run(worlds.job(world, tmp_path, "ivlp", data="real", epochs=12, crop_scale=(1.0, 1.0), flip_probability=0.0))
    losses = [json.loads(line)["total"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_prompts_that_are_loaded_evaluate_like_those_that_were_trained(world: Path, tmp_path: Path) -> None:
    trained = worlds.job(world, tmp_path, "syncclip")
    run(trained)
    dataset, loaded, transform = worlds.parts(world, "syncclip", seed=7)
    load_prompts(trained.run, loaded)
    numbers = [
        results(predict(method, dataset.split("test"), method.base, transform), method.classnames, method.base)
        for method in (trained.method, loaded)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("method", ["zeroshot", "ivlp", "syncclip"])
def test_accuracies_equal_a_loop_over_single_images(world: Path, method: str) -> None:
    dataset, built, transform = worlds.parts(world, method)
    images = dataset.split("test")
    right: dict[str, list[bool]] = {name: [] for name in ("base", "novel", "all_classes_base", "all_classes_novel")}
    for row, label in enumerate(images.labels.tolist()):
        with torch.no_grad():
            text = built.text_features()
            image = built.image_features(transform(images.image(row))[None])[0]
        cosines = [float(torch.nn.functional.cosine_similarity(image, one, dim=0)) for one in text]
        split, candidates = ("base", dataset.base) if label in dataset.base else ("novel", dataset.novel)
        right[split].append(max(candidates, key=cosines.__getitem__) == label)
        right[f"all_classes_{split}"].append(cosines.index(max(cosines)) == label)
    numbers = results(predict(built, images, built.base, transform, batch=5), built.classnames, built.base)
    assert {name: numbers[name] for name in right} == {
        n: pytest.approx(100 * sum(r) / len(r)) for n, r in right.items()
    }


def test_two_halves_of_a_batch_have_the_mean_gradient_of_the_whole(world: Path, tmp_path: Path) -> None:
    def gradients(rank: int, world_size: int) -> dict[str, torch.Tensor]:
        made = worlds.job(world, tmp_path, "ivlp", rank, world_size, batch_size=4)
        assert made.stream is not None
        made.method.loss(made.stream.batch(0, 1))["total"].backward()
        return {name: p.grad.double() for name, p in made.method.named_parameters() if p.grad is not None}

    whole, halves = gradients(0, 1), [gradients(rank, 2) for rank in (0, 1)]
    for name, value in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, value, rtol=1e-3, atol=1e-6)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_sync_clip_on_ray_has_the_bits_of_the_plain_loop_also_after_a_loader_was_killed(
    world: Path, tmp_path: Path
) -> None:
    run(worlds.job(world, tmp_path / "plain", "syncclip"))
    spec: dict[str, Any] = {"world": str(world), "url": str(tmp_path / "ray"), "method": "syncclip"}
    spec |= {"settings": {"loader_processes": 2, "max_failures": 1}, "kill_loader_at": 4}
    settings = worlds.job(world, tmp_path / "ray", "syncclip", **spec["settings"]).settings
    record = train_on_ray(worlds.build, spec, fakes.folder(tmp_path / "ray"), settings)
    assert (tmp_path / "ray.killed").exists()
    assert record.notes[0].startswith("run 'fake' resumes after step")
    assert fakes.bits(tmp_path / "ray") == fakes.bits(tmp_path / "plain")
    found = safetensors.torch.load_file(tmp_path / "ray" / "prompts.safetensors")
    assert sum(value.numel() for value in found.values()) > 0
