"""Hyperparameter search on the validation split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.studies.tune import MOST_COMBINATIONS, at_edge, combinations_of, tune
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import tiny_dataset
from tests.worlds.study import run_cells_here

SPACE = {"a": [1, 2], "b": ["x", "y"]}


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
    values = [tuple(combination.values()) for combination in combinations_of(SPACE).values()]
    assert values == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert combinations_of(SPACE, 9) == combinations_of(SPACE)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 60), st.integers(0, 60), st.integers(0, 99))
def test_more_trials_extend_a_random_sample_of_the_grid(sizes: list[int], few: int, more: int, seed: int) -> None:
    space = {f"key{n}": [*range(size)] for n, size in enumerate(sizes)}
    grid, sample = combinations_of(space), combinations_of(space, few, seed)
    assert len(sample) == min(few, len(grid)) and sample.items() <= grid.items()
    assert sample.items() <= combinations_of(space, few + more, seed).items()


def test_samples_depend_on_the_seed() -> None:
    space = {"a": [*range(10)], "b": [*range(10)]}
    assert len({tuple(combinations_of(space, 5, seed)) for seed in range(20)}) > 10


def test_a_search_space_has_a_maximum_size() -> None:
    with pytest.raises(UserError, match="has 10,000,000 combinations"):
        combinations_of({f"key{n}": [*range(10)] for n in range(7)}, 5)
    assert MOST_COMBINATIONS < 10**7


@pytest.mark.parametrize(
    ("key", "tried", "selected", "edge"),
    [
        ("methods.ivlp.learning_rate", [0.001, 0.01, 0.1], 0.1, "largest"),
        ("methods.ivlp.learning_rate", [0.1, 0.001, 0.01], 0.001, "smallest"),
        ("methods.ivlp.learning_rate", [0.001, 0.01, 0.1], 0.01, None),
        ("methods.ivlp.learning_rate", [0.01], 0.01, None),
        ("training.epochs", [5, 10], 5, "smallest"),
        ("training.epochs", [1, 5], 1, None),  # the setting's minimum
        ("methods.syncclip.alignment_weight", [0, 0.1], 0, None),
        ("training.flip_probability", [0.0, 0.5, 1.0], 1.0, None),
        ("methods.syncclip.class_vectors", [False, True], True, None),
        ("methods.syncclip.negatives", ["all", "hardest"], "hardest", None),
    ],
)
def test_selected_values_at_an_edge_of_the_search_are_reported(
    key: str, tried: list[Any], selected: Any, edge: str | None
) -> None:
    best = {"selected": {key: selected}, "search_space": [{"values": {key: value}} for value in tried]}
    assert at_edge(Recipe(), best) == ({key: edge} if edge else {})


def test_a_study_without_trials_is_stored_as_before() -> None:
    assert "tune_trials" not in Recipe().to_yaml() and Recipe().study.tune_trials is None


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


def test_a_random_search_trains_a_sample_and_is_extended(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncclip.studies.tune.run_cells", run_cells_here)
    trained = []
    for trials in (2, 3):
        record = tune(recipe.with_values({"study.tune_trials": trials, "study.tune_seeds": [1]}), str(tmp_path)).record
        assert len(record["configurations"]["ivlp-real"]["search_space"]) == trials
        trained.append({path.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/results.json")})
    assert len(trained[1]) == 3 and trained[0].items() < trained[1].items()


def test_missing_search_space_is_an_error() -> None:
    with pytest.raises(UserError, match="no configuration has a search space"):
        tune(Recipe())


def test_search_requires_novel_classes(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has none for its novel classes"):
        tune(recipe.with_values({"dataset.base": "all"}), str(tmp_path))
    assert not list(tmp_path.iterdir())
