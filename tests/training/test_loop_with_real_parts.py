"""The training loop and the evaluation with the real stream, methods and a tiny CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from syncclip.evaluation.predict import predict, results
from syncclip.training.loop import load_prompts, run
from syncclip.training.ray_train import train_on_ray
from tests.training import fakes, worlds


def test_metrics_contain_the_weighted_losses_of_syncclip(world: Path, tmp_path: Path) -> None:
    run(worlds.job(world, tmp_path, "syncclip"))
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"step", "epoch", "lr", "real", "synthetic", "alignment", "total"}
    weighted = first["real"] + 0.4 * first["synthetic"] + 0.1 * first["alignment"]
    assert first["total"] == pytest.approx(weighted, rel=1e-6)


def test_training_decreases_the_loss(world: Path, tmp_path: Path) -> None:
    run(worlds.job(world, tmp_path, "ivlp", data="real", epochs=12, crop_scale=(1.0, 1.0), flip_probability=0.0))
    losses = [json.loads(line)["total"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_loaded_prompts_evaluate_like_trained_ones(world: Path, tmp_path: Path) -> None:
    trained = worlds.job(world, tmp_path, "syncclip")
    run(trained)
    dataset, loaded, transform = worlds.parts(world, "syncclip", seed=7)
    load_prompts(trained.run, loaded)
    numbers = [
        results(predict(method, dataset.split("test"), method.base, transform)[0], method.classnames, method.base)
        for method in (trained.method, loaded)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("method", ["zeroshot", "syncclip"])
def test_accuracies_equal_a_loop_over_single_images(world: Path, method: str) -> None:
    dataset, built, transform = worlds.parts(world, method)
    images = dataset.split("test")
    correct: dict[str, list[bool]] = {name: [] for name in ("base", "novel", "all_classes_base", "all_classes_novel")}
    for row, label in enumerate(images.labels.tolist()):
        with torch.no_grad():
            text = built.text_features()
            image = built.image_features(transform(images.image(row))[None])[0]
        cosines = [float(torch.nn.functional.cosine_similarity(image, feature, dim=0)) for feature in text]
        split, candidates = ("base", dataset.base) if label in dataset.base else ("novel", dataset.novel)
        correct[split].append(max(candidates, key=cosines.__getitem__) == label)
        correct[f"all_classes_{split}"].append(cosines.index(max(cosines)) == label)
    numbers = results(predict(built, images, built.base, transform, batch=5)[0], built.classnames, built.base)
    assert {name: numbers[name] for name in correct} == {
        name: pytest.approx(100 * sum(values) / len(values)) for name, values in correct.items()
    }


def test_gradient_of_a_batch_is_the_mean_over_its_halves(world: Path, tmp_path: Path) -> None:
    def gradients(rank: int, world_size: int) -> dict[str, torch.Tensor]:
        made = worlds.job(world, tmp_path, "ivlp", rank, world_size, batch_size=4)
        assert made.stream is not None
        made.method.loss(made.stream.batch(0, 1))["total"].backward()
        return {name: p.grad.double() for name, p in made.method.named_parameters() if p.grad is not None}

    batch, first, second = gradients(0, 1), gradients(0, 2), gradients(1, 2)
    for name, value in batch.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, value, rtol=1e-3, atol=1e-6)


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_training_on_ray_equals_the_loop_bit_for_bit_even_after_a_killed_loader(world: Path, tmp_path: Path) -> None:
    run(worlds.job(world, tmp_path / "loop", "syncclip"))
    spec: dict[str, Any] = {"world": str(world), "url": str(tmp_path / "ray"), "method": "syncclip"}
    spec |= {"settings": {"loader_processes": 2, "max_failures": 1}, "kill_loader_at": 4}
    settings = worlds.job(world, tmp_path / "ray", "syncclip", **spec["settings"]).settings
    record = train_on_ray(worlds.build, spec, fakes.folder(tmp_path / "ray"), settings)
    assert (tmp_path / "ray.killed").exists()
    assert record.notes[0].startswith("run 'fake' resumes after step")
    assert fakes.bits(tmp_path / "ray") == fakes.bits(tmp_path / "loop")
