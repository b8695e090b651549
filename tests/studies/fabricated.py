"""A study folder that no study wrote: plausible numbers and drawn shapes, in the files and formats of a real one."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

from syncclip import storage
from syncclip.evaluation.metrics import METRICS
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.studies import outputs
from syncclip.studies.statistics.bootstrap import seed_weights
from syncclip.studies.statistics.scaling_fit import Series, fit_curve
from syncclip.synthetic_sets.shift import Shift

NAMES = ["apple", "bell", "camera", "dog", "envelope", "flag", "gift", "house", "island", "jacket", "key", "lamp"]
AMOUNTS, SEEDS = [1, 4, 16, 64], [1, 2, 3, 4, 5]

CONFIGURATIONS = [
    ("zeroshot", "zeroshot", "both", 51.1, 50.0, 43.2, 44.5, 0.0),
    ("ivlp-real", "ivlp", "real", 54.1, 45.6, 46.5, 39.8, 0.0),
    ("ivlp-synthetic", "ivlp", "synthetic", 40.6, 39.5, 31.2, 31.4, 3.0),
    ("ivlp-both", "ivlp", "both", 50.8, 46.6, 43.6, 36.9, 2.0),
    ("syncclip-both", "syncclip", "both", 55.4, 50.8, 47.8, 45.2, 2.6),
]
"""Name, method, data, the four accuracies at the largest amount, and how much of them the smallest amount lacks."""


def make_image(label: int, number: int, synthetic: bool = False) -> Image.Image:
    """A polygon whose corners and colour tell the class; a synthetic one is soft and pale."""
    generator = np.random.default_rng([label, number, synthetic])
    tint = tuple(int(value) for value in generator.integers(150, 255, 3))
    image = Image.new("RGB", (64, 64), (245, 240, 235) if synthetic else tint)
    centre, radius, turn = generator.uniform(26, 38, 2), generator.uniform(16, 24), generator.uniform(-0.4, 0.4)
    ImageDraw.Draw(image).regular_polygon(
        (*centre, radius),
        3 + label % 6,
        57 * turn,
        fill=tuple(int(x) for x in np.random.default_rng(label).integers(20, 190, 3)),
    )
    return image.filter(ImageFilter.GaussianBlur(1.6)) if synthetic else image


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_dataset(folder: Path, names: list[str] = NAMES) -> Path:
    """Packed shards with a few images of each class."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"classnames": names, "template": "a photo of a {}."}))
    for number, split in enumerate(("train", "val", "test")):
        labels = [label for _ in range(6) for label in range(len(names))]
        write_shard(
            str(folder / split),
            0,
            [
                Sample(i, label, jpeg(make_image(label, 100 * number + i)), names[label])
                for i, label in enumerate(labels)
            ],
        )
    return folder


def make_set(folder: Path, names: list[str] = NAMES, source: ShardSet | None = None) -> Path:
    """A synthetic set of six images of each class, with rejects in its markers."""
    folder.mkdir(parents=True)
    plan = {"dataset": "shapes", "classnames": names, "generator": {"pipeline": "shapes"}, "amounts": [6]}
    storage.write_with_checksum(str(folder / "plan.json"), json.dumps(plan).encode())
    for shard in range(2):
        samples = []
        for place in range(3 * len(names)):
            index, label = shard * 3 * len(names) + place, place % len(names)
            drawn = make_image(label, index, synthetic=True)
            if source is not None:
                rows = source.rows_of(label)
                drawn = source.image(int(rows[index // len(names) % len(rows)])).filter(ImageFilter.GaussianBlur(1.3))
            samples.append(Sample(index, label, jpeg(drawn), f"a photo of a {names[label]}."))
        write_shard(str(folder), shard, samples, {"blank": 3 + shard, "clip_score": 17}, seconds=4.2)
    return folder


def seed_draws(errors: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Mean errors with the seeds drawn again: (S, A) -> (R, A). A seed keeps its values at all amounts together."""
    return seed_weights(len(errors), resamples, generator) @ errors


def make_study(folder: Path, dataset: Path, names: list[str] = NAMES, source: ShardSet | None = None) -> Path:
    """All files of a finished study of five configurations, with its set and its cells."""
    generator = np.random.default_rng(7)
    folder.mkdir(parents=True)
    synthetic = make_set(folder / "synthetic", names, source)
    rows = _cells(folder, names, generator)
    table = pd.DataFrame(rows)
    state = outputs.StudyState(
        name="shapes",
        dataset="shapes",
        classnames=names,
        base=(len(names) + 1) // 2,
        split="test",
        synthetic=str(synthetic),
        reference="syncclip-both",
        configurations=[outputs.ConfigurationState(name, method, data) for name, method, data, *_ in CONFIGURATIONS],
        images_per_class=list(AMOUNTS),
        dropped=[],
        seeds=list(SEEDS),
        cells=[
            outputs.CellState(
                row["cell"], row["configuration"], row["images_per_class"], row["seed"], "done", None, row["cell"]
            )
            for row in rows
        ],
    )
    owner = state.owner
    outputs.write_json(str(folder / outputs.STATE), state, owner)
    storage.write_table(str(folder / outputs.TABLE), table, owner)
    recipe = f"name: shapes\ndataset:\n  name: {dataset}\n  shots: 4\ntraining:\n  method: syncclip\n"
    storage.write_with_checksum(str(folder / outputs.RECIPE), recipe.encode(), owner=owner)
    fits = {"confidence_level": 0.95, "resamples": 400, "split": "test", "curves": _curves(table, generator)}
    outputs.write_json(str(folder / outputs.FIT), fits, owner)
    outputs.write_json(str(folder / outputs.COMPARISONS), _comparisons(table), owner)
    _features(folder, len(names), generator, owner)
    outputs.write_json(
        str(folder / outputs.COST),
        {
            "synthesis": {
                "images": 72,
                "rejects": {"clip_score": 41},
                "hours": 0.05,
                "images_per_second": 31.4,
                "wall_hours": 0.03,
                "busy_share": 0.94,
            },
            "training": {"cells": len(rows), "hours": 0.9, "wall_hours": 0.47, "workers": 2, "busy_share": 0.97},
        },
        owner,
    )
    return folder


def make_run(folder: Path, dataset: Path, names: list[str] = NAMES) -> Path:
    """A finished single run."""
    generator = np.random.default_rng(3)
    folder.mkdir(parents=True)
    scores = {
        "base": 55.0,
        "novel": 50.5,
        "hm": 52.7,
        "all_classes_base": 47.0,
        "all_classes_novel": 45.0,
        "all_classes_hm": 46.0,
        "all_classes_accuracy": 46.1,
        "openworld_auc": 31.4,
    }
    results = {**scores, "per_class": _per_class(names, scores, generator)}
    storage.write_with_checksum(str(folder / "results.json"), json.dumps(results).encode())
    record = {"name": "shapes", "status": "finished", "seconds": 65.0}
    storage.write_with_checksum(str(folder / "run.json"), json.dumps(record).encode())
    recipe = f"name: shapes\ndataset:\n  name: {dataset}\ntraining:\n  method: syncclip\n  data: both\n"
    storage.write_with_checksum(str(folder / "recipe.yaml"), recipe.encode())
    lines = [
        {
            "step": step,
            "epoch": step // 10,
            "real": 1.2 + math.exp(-step / 20),
            "synthetic": 0.8 + math.exp(-step / 30),
            "total": 2 + math.exp(-step / 25),
        }
        for step in range(1, 60)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _cells(folder: Path, names: list[str], generator: np.random.Generator) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    shots = generator.normal(0, 0.5, (len(SEEDS), 4))  # a seed's shots move all configurations alike
    tastes = generator.normal(0, 14, len(names))
    for name, method, data, *levels, lacking in CONFIGURATIONS:
        for amount in AMOUNTS if data != "real" and method != "zeroshot" else [None]:
            for place, seed in enumerate(SEEDS if method != "zeroshot" else [None]):
                noise = shots[place] + generator.normal(0, 0.35, 4) if seed else np.zeros(4)
                missing = lacking * (amount**-0.45 - 64**-0.45) if amount else 0
                base, novel, all_classes_base, all_classes_novel = (
                    level - missing + move for level, move in zip(levels, noise, strict=True)
                )
                scores = {
                    "base": base,
                    "novel": novel,
                    "hm": 2 * base * novel / (base + novel),
                    "all_classes_base": all_classes_base,
                    "all_classes_novel": all_classes_novel,
                    "all_classes_hm": 2 * all_classes_base * all_classes_novel / (all_classes_base + all_classes_novel),
                    "all_classes_accuracy": (all_classes_base + all_classes_novel) / 2,
                    "openworld_auc": all_classes_base * all_classes_novel / 64,
                }
                cell = "-".join([name, *([str(amount)] if amount else []), *([f"seed{seed}"] if seed else [])])
                rows.append(
                    {
                        "cell": cell,
                        "configuration": name,
                        "method": method,
                        "data": data,
                        "images_per_class": amount,
                        "seed": seed,
                        "split": "test",
                    }
                    | scores
                    | {"ece": 3.1, "seconds": 61.0 if seed else 4.0}
                )
                (folder / outputs.CELLS / cell).mkdir(parents=True)
                results = {**scores, "per_class": _per_class(names, scores, generator, tastes)}
                place = str(folder / outputs.CELLS / cell / "results.json")
                storage.write_with_checksum(place, json.dumps(results).encode(), owner=storage.identity(cell))
    return rows


def _per_class(
    names: list[str], scores: dict[str, float], generator: np.random.Generator, tastes: np.ndarray | None = None
) -> list[dict[str, object]]:
    half = (len(names) + 1) // 2
    moves = (tastes if tastes is not None else 0) + generator.normal(0, 9, len(names))
    return [
        {
            "label": label,
            "name": name,
            "count": 12 + label % 9,
            "within_split": float(np.clip(scores["base" if label < half else "novel"] + moves[label], 0, 100)),
            "all_classes": float(
                np.clip(scores["all_classes_base" if label < half else "all_classes_novel"] + moves[label], 0, 100)
            ),
        }
        for label, name in enumerate(names)
    ]


def _curves(table: pd.DataFrame, generator: np.random.Generator) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for configuration in ("ivlp-synthetic", "ivlp-both", "syncclip-both"):
        mine, real = (
            table[table["configuration"] == configuration],
            table[table["configuration"] == "ivlp-real"].set_index("seed"),
        )
        for metric in METRICS:
            grown = mine.pivot(index="seed", columns="images_per_class", values=metric)
            errors = 100 - np.column_stack([real.loc[grown.index, metric], grown])
            resamples = seed_draws(errors, 400, generator)
            found.setdefault(configuration, {})[metric] = fit_curve(
                Series([0, *AMOUNTS], errors, resamples), forecast=[256, 1024]
            )
    return found


def _comparisons(table: pd.DataFrame) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for amount in (1, 64):
        for metric in METRICS:
            mine = table[(table["configuration"] == "syncclip-both") & (table["images_per_class"] == amount)][
                metric
            ].mean()
            for baseline in ("zeroshot", "ivlp-real", "ivlp-synthetic", "ivlp-both"):
                theirs = table[
                    (table["configuration"] == baseline) & table["images_per_class"].isin([amount])
                    | (table["configuration"] == baseline) & table["images_per_class"].isna()
                ][metric].mean()
                found.append(
                    _comparison(
                        amount,
                        baseline,
                        amount if "synthetic" in baseline or "both" in baseline else None,
                        metric,
                        mine - theirs,
                    )
                )
            if amount == 64:
                least = table[(table["configuration"] == "syncclip-both") & (table["images_per_class"] == 1)][
                    metric
                ].mean()
                found.append(_comparison(64, "syncclip-both", 1, metric, mine - least))
    return found


def _comparison(
    amount: int, baseline: str, baseline_amount: int | None, metric: str, estimate: float
) -> dict[str, object]:
    return {
        "configuration": "syncclip-both",
        "images_per_class": amount,
        "baseline": baseline,
        "baseline_images_per_class": baseline_amount,
        "metric": metric,
        "estimate": estimate,
        "low": estimate - 1.3,
        "high": estimate + 1.3,
        "confidence_level": 0.95,
        "seeds": len(SEEDS),
        "images": 400,
        "unit": "images",
        "smaller_split": 200,
    }


def _features(folder: Path, classes: int, generator: np.random.Generator, owner: str) -> None:
    centres = generator.normal(0, 0.35, (classes, 2))
    rows = []
    for model, gap in (("frozen", 0.55), ("trained", 0.16)):
        for domain in ("real", "synthetic"):
            for place in range(max(120, 4 * classes)):
                label = place % classes
                x, y = centres[label] + generator.normal(0, 0.12, 2) + (gap if domain == "synthetic" else 0)
                rows.append({"model": model, "domain": domain, "label": label, "row": place, "x": x, "y": y})
    storage.write_table(str(folder / outputs.FEATURES), pd.DataFrame(rows), storage.identity(""))
    state = outputs.StudyShift(
        cell="syncclip-both-64-seed1",
        configuration="syncclip-both",
        images_per_class=64,
        seed=1,
        split="test",
        images={"real": 120, "synthetic": 120},
        key="",
        frozen=Shift(0.231, 0.84, 41.0, 0.318, {}),
        trained=Shift(0.084, 0.37, 68.5, 0.121, {}),
    )
    outputs.write_json(str(folder / outputs.SHIFT), state, owner)
