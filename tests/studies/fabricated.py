"""Fabricated folders of studies, runs and datasets: plausible numbers and drawn shapes, in the real file formats."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

from syncclip import storage
from syncclip.evaluation.metrics import METRICS
from syncclip.shards.writer import Sample, write_shard
from syncclip.studies import outputs
from syncclip.studies.statistics.bootstrap import seed_weights
from syncclip.studies.statistics.scaling_fit import Series, fit_curve
from syncclip.synthetic_sets.shift import Shift

NAMES = ["apple", "bell", "camera", "dog", "envelope", "flag", "gift", "house", "island", "jacket", "key", "lamp"]
BASE = len(NAMES) // 2
AMOUNTS, SEEDS = [1, 4, 16, 64], [1, 2, 3, 4, 5]
CONFIGURATIONS = [
    ("zeroshot", "zeroshot", "both", 51.1, 50.0, 43.2, 44.5, 0.0),
    ("ivlp-real", "ivlp", "real", 54.1, 45.6, 46.5, 39.8, 0.0),
    ("ivlp-synthetic", "ivlp", "synthetic", 40.6, 39.5, 31.2, 31.4, 3.0),
    ("ivlp-both", "ivlp", "both", 50.8, 46.6, 43.6, 36.9, 2.0),
    ("syncclip-both", "syncclip", "both", 55.4, 50.8, 47.8, 45.2, 2.6),
]
"""Name, method, data, four accuracies at the largest number of images, and the loss at the smallest number."""


def make_image(label: int, number: int, synthetic: bool = False) -> Image.Image:
    """A polygon whose corners and colour identify the class; a synthetic one is blurred, on a pale background."""
    generator = np.random.default_rng([label, number, synthetic])
    tint = tuple(int(value) for value in generator.integers(150, 255, 3))
    image = Image.new("RGB", (64, 64), (245, 240, 235) if synthetic else tint)
    centre, radius, turn = generator.uniform(26, 38, 2), generator.uniform(16, 24), generator.uniform(-0.4, 0.4)
    fill = tuple(int(value) for value in np.random.default_rng(label).integers(20, 190, 3))
    ImageDraw.Draw(image).regular_polygon((*centre, radius), 3 + label % 6, 57 * turn, fill=fill)
    return image.filter(ImageFilter.GaussianBlur(1.6)) if synthetic else image


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_dataset(folder: Path) -> Path:
    """A packed dataset with six images of each class per split."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"classnames": NAMES, "template": "a photo of a {}."}))
    for number, split in enumerate(("train", "val", "test")):
        labels = [label for _ in range(6) for label in range(len(NAMES))]
        images = [jpeg(make_image(label, 100 * number + i)) for i, label in enumerate(labels)]
        write_shard(str(folder / split), 0, [Sample(i, k, images[i], NAMES[k]) for i, k in enumerate(labels)])
    return folder


def make_set(folder: Path, names: list[str] = NAMES) -> Path:
    """A synthetic dataset with six images of each class, and rejects in its markers."""
    folder.mkdir(parents=True)
    plan = {"dataset": "shapes", "classnames": names, "generator": {"pipeline": "shapes"}, "amounts": [6]}
    storage.write_with_checksum(str(folder / "plan.json"), json.dumps(plan).encode())
    for shard in range(2):
        first = shard * 3 * len(names)
        samples = []
        for index in range(first, first + 3 * len(names)):
            label = index % len(names)
            image = jpeg(make_image(label, index, synthetic=True))
            samples.append(Sample(index, label, image, f"a photo of a {names[label]}."))
        write_shard(str(folder), shard, samples, {"blank": 3 + shard, "clip_score": 17}, seconds=4.2)
    return folder


def resample_seeds(errors: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Mean errors in each resample of the seeds: (S, A) -> (R, A)."""
    return seed_weights(len(errors), resamples, generator) @ errors


def make_study(folder: Path, dataset: Path) -> Path:
    """All files of a finished study of five configurations, with its synthetic dataset and runs."""
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True)
    synthetic = make_set(folder / "synthetic")
    rows = _make_runs(folder, generator)
    table = pd.DataFrame(rows)
    states = [(row["cell"], row["configuration"], row["images_per_class"], row["seed"]) for row in rows]
    state = outputs.StudyState(
        name="shapes",
        dataset="shapes",
        classnames=NAMES,
        base=BASE,
        split="test",
        synthetic=str(synthetic),
        reference="syncclip-both",
        configurations=[outputs.ConfigurationState(name, method, data) for name, method, data, *_ in CONFIGURATIONS],
        images_per_class=AMOUNTS,
        dropped=[],
        seeds=SEEDS,
        cells=[outputs.CellState(*values, "done", None, values[0]) for values in states],
    )
    owner = state.owner
    recipe = f"name: shapes\ndataset:\n  name: {dataset}\n  shots: 4\ntraining:\n  method: syncclip\n"
    storage.write_with_checksum(str(folder / outputs.RECIPE), recipe.encode(), owner=owner)
    storage.write_table(str(folder / outputs.TABLE), table, owner)
    _write_features(folder, generator, owner)
    synthesis = outputs.SynthesisCost(72, {"clip_score": 41}, 0.05, 31.4, 0.03, 0.94)
    documents = {
        outputs.STATE: state,
        outputs.FIT: outputs.Fits(0.95, 400, "test", _curves(table, generator)),
        outputs.COMPARISONS: _comparisons(table),
        outputs.COST: outputs.Cost(synthesis, outputs.TrainingCost(len(rows), 0.9, 0.47, 2, 0.97)),
    }
    for name, document in documents.items():
        outputs.write_json(str(folder / name), document, owner)
    return folder


def make_run(folder: Path, dataset: Path) -> Path:
    """A finished run."""
    folder.mkdir(parents=True)
    scores = _scores(55.0, 50.5, 47.0, 45.0)
    results = {**scores, "per_class": _per_class(scores, np.random.default_rng(3))}
    storage.write_with_checksum(str(folder / "results.json"), json.dumps(results).encode())
    record = {"name": "shapes", "status": "finished", "seconds": 65.0}
    storage.write_with_checksum(str(folder / "run.json"), json.dumps(record).encode())
    recipe = f"name: shapes\ndataset:\n  name: {dataset}\ntraining:\n  method: syncclip\n  data: both\n"
    storage.write_with_checksum(str(folder / "recipe.yaml"), recipe.encode())
    lines = []
    for step in range(1, 60):
        losses = {"real": 1.2 + math.exp(-step / 20), "synthetic": 0.8 + math.exp(-step / 30)}
        lines.append(json.dumps({"step": step, "epoch": step // 10, **losses, "total": sum(losses.values())}))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def _scores(base: float, novel: float, all_classes_base: float, all_classes_novel: float) -> dict[str, float]:
    return {
        "base": base,
        "novel": novel,
        "hm": 2 * base * novel / (base + novel),
        "all_classes_base": all_classes_base,
        "all_classes_novel": all_classes_novel,
        "all_classes_hm": 2 * all_classes_base * all_classes_novel / (all_classes_base + all_classes_novel),
        "all_classes_accuracy": (all_classes_base + all_classes_novel) / 2,
        "openworld_auc": all_classes_base * all_classes_novel / 64,
    }


def _make_runs(folder: Path, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Write the results of each run, and return the rows of the study's table."""
    rows: list[dict[str, Any]] = []
    seed_effects = generator.normal(0, 0.5, (len(SEEDS), 4))  # shared by all configurations
    class_effects = generator.normal(0, 14, len(NAMES))
    for name, method, data, *levels, loss in CONFIGURATIONS:
        for n in AMOUNTS if data != "real" and method != "zeroshot" else [None]:
            for position, seed in enumerate(SEEDS if method != "zeroshot" else [None]):
                noise = seed_effects[position] + generator.normal(0, 0.35, 4) if seed else np.zeros(4)
                missing = loss * (n**-0.45 - 64**-0.45) if n else 0
                scores = _scores(*(np.array(levels) - missing + noise).tolist())
                cell = "-".join([name, *([str(n)] if n else []), *([f"seed{seed}"] if seed else [])])
                row = {"cell": cell, "configuration": name, "method": method, "data": data, "images_per_class": n}
                row |= {"seed": seed, "split": "test", **scores, "ece": 3.1, "seconds": 61.0 if seed else 4.0}
                rows.append(row)
                (folder / outputs.CELLS / cell).mkdir(parents=True)
                results = {**scores, "per_class": _per_class(scores, generator, class_effects)}
                path = str(folder / outputs.CELLS / cell / "results.json")
                storage.write_with_checksum(path, json.dumps(results).encode(), owner=storage.identity(cell))
    return rows


def _per_class(
    scores: dict[str, float], generator: np.random.Generator, effects: np.ndarray | float = 0.0
) -> list[dict[str, object]]:
    effects = effects + generator.normal(0, 9, len(NAMES))
    entries = []
    for label, name in enumerate(NAMES):
        split = "base" if label < BASE else "novel"
        within_split, all_classes = np.clip([scores[split], scores[f"all_classes_{split}"]] + effects[label], 0, 100)
        accuracies = {"within_split": float(within_split), "all_classes": float(all_classes)}
        entries.append({"label": label, "name": name, "count": 12 + label % 9, **accuracies})
    return entries


def _curves(table: pd.DataFrame, generator: np.random.Generator) -> dict[str, dict[str, Any]]:
    curves: dict[str, dict[str, Any]] = {}
    real = table[table["configuration"] == "ivlp-real"].set_index("seed")
    for configuration in ("ivlp-synthetic", "ivlp-both", "syncclip-both"):
        rows = table[table["configuration"] == configuration]
        for metric in METRICS:
            scores = rows.pivot(index="seed", columns="images_per_class", values=metric)
            errors = 100 - np.column_stack([real.loc[scores.index, metric], scores])
            series = Series([0, *AMOUNTS], errors, resample_seeds(errors, 400, generator))
            curves.setdefault(configuration, {})[metric] = fit_curve(series, forecast=[256, 1024])
    return curves


def _comparisons(table: pd.DataFrame) -> list[outputs.Comparison]:
    means = table.groupby(["configuration", table["images_per_class"].fillna(0)])[list(METRICS)].mean()
    pairs = [(n, name, n if data != "real" and n and name != "zeroshot" else 0) for n in (1, 64)
             for name, _, data, *_ in CONFIGURATIONS[:-1]]  # fmt: skip
    comparisons = []
    for n, baseline, baseline_n in [*pairs, (64, "syncclip-both", 1)]:
        for metric in METRICS:
            estimate = means.loc[("syncclip-both", n), metric] - means.loc[(baseline, baseline_n), metric]
            interval = estimate, estimate - 1.3, estimate + 1.3
            test_data = 0.95, len(SEEDS), 400, "images", 200
            pair = "syncclip-both", n, baseline, baseline_n or None, metric
            comparisons.append(outputs.Comparison(*pair, *map(float, interval), *test_data))
    few, many = np.reshape(comparisons[: -len(METRICS)], (2, -1))
    for first, second in zip(few, many, strict=True):
        mean = (first.estimate + second.estimate) / 2
        average = {"estimate": mean, "low": mean - 1, "high": mean + 1, "averaged_over": [1, 64]}
        comparisons.append(replace(second, images_per_class=None, baseline_images_per_class=None, **average))
    return comparisons


def _write_features(folder: Path, generator: np.random.Generator, owner: str) -> None:
    centres = generator.normal(0, 0.35, (len(NAMES), 2))
    rows = []
    for model, gap in (("frozen", 0.55), ("trained", 0.16)):
        for domain in ("real", "synthetic"):
            for row in range(120):
                label = row % len(NAMES)
                x, y = centres[label] + generator.normal(0, 0.12, 2) + (gap if domain == "synthetic" else 0)
                rows.append({"model": model, "domain": domain, "label": label, "row": row, "x": x, "y": y})
    storage.write_table(str(folder / outputs.FEATURES), pd.DataFrame(rows), storage.identity(""))
    shifts = Shift(0.231, 0.84, 41.0, 0.318, {}), Shift(0.084, 0.37, 68.5, 0.121, {})
    images = {"real": 120, "synthetic": 120}
    shift = outputs.StudyShift("syncclip-both-64-seed1", "syncclip-both", 64, 1, "test", images, "", *shifts)
    outputs.write_json(str(folder / outputs.SHIFT), shift, owner)
