"""Numbers in the README of the embedded toy benchmark."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from scripts.embedded.drawings import SYMBOLS
from scripts.embedded.validate import validate_levels
from syncclip.datasets import DatasetSettings
from syncclip.datasets.loading import suite_of
from syncclip.embedded import FOLDER
from syncclip.evaluation.predict import results
from syncclip.recipe.recipe import Recipe
from syncclip.runs.build import build_parts, predictions
from syncclip.shards.reader import ShardSet

README = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
SUITE = suite_of(DatasetSettings(name="icons"))
METRICS = ("base", "novel", "all_classes_base", "all_classes_novel")


@pytest.mark.nightly
def test_zero_shot_accuracy() -> None:
    metrics = []
    for dataset in SUITE:
        recipe = Recipe.load("icons", ["training.method=zeroshot", f"dataset.name=icons/{dataset}"])
        parts = build_parts(recipe)
        (output,) = predictions(recipe, parts, "val")
        values = results(output, parts.method.classnames, len(parts.dataset.base), recipe.evaluation.bins)
        metrics.append([values[metric] for metric in METRICS])
    sentence = (
        "{:.1f} % (base) and {:.1f} % (novel) within split, and {:.1f} % (base) and {:.1f} % (novel) among all classes"
    )
    assert sentence.format(*np.mean(metrics, axis=0)) in README


@pytest.mark.parametrize(("split", "words"), [("train", "training"), ("val", "validation"), ("test", "test")])
def test_sizes_of_the_splits(split: str, words: str) -> None:
    count = sum(len(ShardSet(str(FOLDER / "icons/dataset" / dataset / split))) for dataset in SUITE)
    assert re.search(rf"\b{count:,} {words}\s+images", README)


def test_sizes_of_the_folders() -> None:
    sizes = [
        sum(file.stat().st_size for file in (FOLDER / "icons" / name).rglob("*") if file.is_file()) / 1e6
        for name in ("clip", "generator", "dataset", "symbols")
    ]
    assert "{:.1f} MB, {:.1f} MB, {:.1f} MB and {:.1f} MB.".format(*sizes) in README


@pytest.mark.parametrize("dataset", SYMBOLS.datasets)
def test_sizes_of_the_new_datasets(dataset: str) -> None:
    splits = [len(ShardSet(str(FOLDER / "icons/symbols" / dataset / split))) for split in ("train", "val", "test")]
    row = [f"`symbols/{dataset}`", len(SYMBOLS.datasets[dataset]), *splits]
    assert f"| {' | '.join(map(str, row))} |" in README


@pytest.mark.nightly
def test_name_knowledge_of_the_text_towers() -> None:
    assert [line for line in validate_levels(SYMBOLS.name) if line not in README] == []


def test_dropped_drawings() -> None:
    design = json.loads((FOLDER / "icons/symbols/design.json").read_text())
    classes = [counts for by_class in design.values() for counts in by_class.values()]
    copies, twins = (sum(counts[f"dropped {kind}"] for counts in classes) for kind in ("copies", "twins"))
    drawings = min(counts["train"] + counts["val"] + counts["test"] for counts in classes)
    designers = min(counts["designers"] for counts in classes)
    assert f"{copies} copies and {twins} duplicates were dropped" in README
    assert f"at least {drawings} drawings by at least {designers} designers" in README


def test_the_drawing_named_as_an_exception_is_in_the_test_split() -> None:
    images = ShardSet(str(FOLDER / "icons/dataset/office/test"))
    assert any("(ci:flag)" in images.text(row) for row in range(len(images)))
    assert "`ci:flag` in `office`" in README
    assert "mynaui" in (FOLDER / "icons/clip/pretraining.json").read_text()
