"""Hyperparameter search on the validation split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.studies.tune import combinations_of, tune
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import tiny_dataset


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("tune")
    tiny_dataset(root / "dataset", train=2, val=6, test=1)
    make_clip_folder(root / "clip")
    search_space = {"methods.ivlp.learning_rate": [0.0025, 0.05], "training.epochs": [1, 3]}
    values: dict[str, Any] = {
        "dataset.name": str(root / "dataset"),
        "dataset.shots": 2,
        "backbone.name": str(root / "clip"),
        "training.batch_size": 3,
        "training.warmup_epochs": 0,
        "study.configurations": [
            {"method": "zeroshot"},
            {"method": "ivlp", "data": "real", "overrides": {"training.momentum": 0.5}, "search_space": search_space},
        ],
        "study.compare": [["ivlp-real", "zeroshot"]],  # of the study, not of the search
        "study.tune_seeds": [1, 2],
        "storage.root": str(root / "runs"),
    }
    return Recipe().with_values(values)


def test_all_combinations_are_listed() -> None:
    values = [tuple(combination.values()) for combination in combinations_of({"a": [1, 2], "b": ["x", "y"]})]
    assert values == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_best_combination_on_validation_images_is_selected_and_recorded(recipe: Recipe, tmp_path: Path) -> None:
    choice = tune(recipe, str(tmp_path))
    record = json.loads((tmp_path / "tuned.json").read_text())
    tried = record["configurations"]["ivlp-real"]["search_space"]
    assert record["split"] == "val" and len(tried) == 4
    best = max(tried, key=lambda candidate: candidate["all_classes_hm"])
    assert record["configurations"]["ivlp-real"]["selected"] == best["values"]
    results = json.loads((tmp_path / "cells" / "ivlp-real-try0-seed1" / "results.json").read_text())
    assert results["split"] == "val"
    assert tried[0]["by_seed"]["1"] == results["all_classes_hm"]
    configuration = Recipe.load(str(tmp_path / "recipe.yaml")).study.configurations[1]
    assert configuration == choice.recipe.study.configurations[1]
    assert configuration.overrides == {"training.momentum": 0.5, **best["values"]} and configuration.search_space == {}
    assert choice.recipe.evaluation.split == "test"


def test_missing_search_space_is_an_error() -> None:
    with pytest.raises(UserError, match="no configuration has a search space"):
        tune(Recipe())


def test_search_requires_novel_classes(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has none for its novel classes"):
        tune(recipe.with_values({"dataset.base": "all"}), str(tmp_path))
    assert not list(tmp_path.iterdir())
