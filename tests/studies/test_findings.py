"""Results of a study on a tiny dataset, whose trainings run in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from syncclip import jobs
from syncclip.evaluation.metrics import METRICS
from syncclip.recipe.recipe import Recipe
from syncclip.studies import findings
from syncclip.studies.cells import prepare, run_cell
from syncclip.studies.findings import SyntheticSet
from syncclip.studies.grid import cells
from syncclip.studies.run import with_amounts
from syncclip.studies.status import StudyStatus
from tests.worlds.dataset import CLASSES
from tests.worlds.study import make_set, study_recipe, study_world

WORK = StudyStatus(began=0, seen=10, cells=15, done=15, seconds=15.0, wall_seconds=10.0, workers=2)


@dataclass(frozen=True)
class Finished:
    """A study whose files are written."""

    url: Path
    table: pd.DataFrame

    def read(self, name: str) -> Any:
        return json.loads((self.url / name).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = study_world(tmp_path_factory.mktemp("world"))
    url = root / "study"
    synthetic_url = make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    synthetic = SyntheticSet(synthetic_url, 4, wall_hours=3.0 / 3600, busy_share=0.5)
    recipe, dropped = with_amounts(study_recipe(root), synthetic)
    ended = []
    for run in prepare(recipe, cells(recipe.study), str(url), synthetic.url):
        assert run_cell(run.spec)["error"] is None
        ended.append(replace(run, status="done"))
    state = findings.state_of(recipe, ended, dropped)
    return Finished(url, findings.write(recipe, str(url), ended, synthetic, WORK, state).table)


def test_table_has_one_row_per_training(finished: Finished) -> None:
    table = pd.read_parquet(finished.url / "study.parquet")
    assert len(table) == 1 + 2 + 2 * 3 * 2
    assert set(METRICS) <= set(table.columns)
    assert table["images_per_class"].isna().sum() == 3
    assert (table["seconds"] > 0).all() and table["hash"].str.len().eq(16).all()
    assert table.loc[table["method"] == "zeroshot", "data"].tolist() == ["none"]


def test_each_training_has_a_run_folder(finished: Finished) -> None:
    folders = {path.name for path in (finished.url / "cells").iterdir()}
    assert folders == set(finished.table["cell"])
    for name, score in zip(finished.table["cell"], finished.table["all_classes_hm"], strict=True):
        assert score == finished.read(f"cells/{name}/results.json")["all_classes_hm"]


def test_overrides_of_a_configuration_apply_to_its_trainings(finished: Finished) -> None:
    recipe = Recipe.load(str(finished.url / "cells" / "syncclip-both-2-seed2" / "recipe.yaml"))
    assert recipe.methods.syncclip.learning_rate == 0.01
    assert (recipe.training.images_per_class, recipe.training.seed) == (2, 2)
    steps = finished.read("cells/ivlp-both-1-seed1/run.json")["total_steps"]
    assert finished.read("cells/ivlp-real-seed1/run.json")["total_steps"] == 2 * steps


def test_training_is_bit_identical_to_a_separate_run(finished: Finished, tmp_path: Path) -> None:
    folder = finished.url / "cells" / "syncclip-both-4-seed1"
    jobs.run_here(Recipe.load(str(folder / "recipe.yaml")), str(tmp_path / "separate"))
    name = "prompts.safetensors"
    assert (tmp_path / "separate" / name).read_bytes() == (folder / name).read_bytes()


def test_state_contains_classes_configurations_and_trainings(finished: Finished) -> None:
    state = finished.read("study.json")
    assert state["classnames"] == CLASSES and state["base"] == 3
    names = [configuration["name"] for configuration in state["configurations"]]
    assert names == ["zeroshot", "ivlp-real", "ivlp-both", "syncclip-both"]
    assert {cell["status"] for cell in state["cells"]} == {"done"}


def test_reference_is_compared_with_each_configuration(finished: Finished) -> None:
    pairs = finished.read("comparisons.json")
    expected = {(n, name) for n in (1, 2, 4, None) for name in ("zeroshot", "ivlp-real", "ivlp-both")} | {
        (4, "syncclip-both")
    }
    assert {(pair["images_per_class"], pair["baseline"]) for pair in pairs} == expected
    assert {pair["metric"] for pair in pairs} == set(METRICS)
    keys = ("images_per_class", "baseline", "metric")
    pair = next(pair for pair in pairs if [pair[key] for key in keys] == [4, "ivlp-both", "all_classes_hm"])
    table = finished.table
    means = table[table["images_per_class"] == 4].groupby("configuration")["all_classes_hm"].mean()
    assert pair["estimate"] == pytest.approx(means["syncclip-both"] - means["ivlp-both"])
    assert pair["low"] <= pair["estimate"] <= pair["high"]


def test_each_configuration_with_synthetic_images_has_a_curve(finished: Finished) -> None:
    curves = finished.read("fit.json")["curves"]
    assert set(curves) == {"ivlp-both", "syncclip-both"}
    means = finished.table.groupby(["configuration", "images_per_class"], dropna=False)["all_classes_hm"].mean()
    expected = [means["ivlp-real"].item(), *means["syncclip-both"]]
    curve = curves["syncclip-both"]["all_classes_hm"]
    assert (curve["amounts"], curve["means"]) == ([0, 1, 2, 4], pytest.approx([100 - mean for mean in expected]))


def test_cost_and_data_efficiency_follow_from_measured_times(finished: Finished) -> None:
    efficiency, cost = finished.read("data_efficiency.json"), finished.read("cost.json")
    assert cost["synthesis"]["images"] == 24
    assert cost["training"]["cells"] == 15 and 0 < cost["training"]["busy_share"] <= 1
    assert efficiency["configuration"] == "syncclip-both"
    assert efficiency["images_per_hour"] == pytest.approx(3600 * cost["synthesis"]["images_per_second"])
    assert [entry["n"] for entry in efficiency["marginal"]["all_classes_hm"]] == [0, 1, 2, 4]
    assert efficiency["exchange"] == {}  # requires several numbers of shots


def test_feature_map_contains_both_domains_before_and_after_training(finished: Finished) -> None:
    features = pd.read_parquet(finished.url / "features.parquet")
    groups = {(model, domain): 12 for model in ("frozen", "trained") for domain in ("real", "synthetic")}
    assert features.groupby(["model", "domain"]).size().to_dict() == groups
    assert np.isfinite(features[["x", "y"]]).all().all()
    shift = finished.read("shift.json")
    assert shift["cell"] == "syncclip-both-4-seed1"
    assert shift["frozen"]["centroid_distance"] != shift["trained"]["centroid_distance"]
