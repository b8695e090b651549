"""What a study finds, on a tiny world whose cells run in this process."""

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

    url: str
    table: pd.DataFrame


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = study_world(tmp_path_factory.mktemp("world"))
    recipe = study_recipe(root)
    url = str(root / "study")
    made = make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    drawn = SyntheticSet(made, 4, wall_hours=3.0 / 3600, busy_share=0.5)
    recipe, dropped = with_amounts(recipe, drawn)
    runs = prepare(recipe, cells(recipe.study), url, drawn.url)
    ended = []
    for run in runs:
        answer = run_cell(run.spec)
        assert answer["error"] is None
        ended.append(replace(run, status="done"))
    state = findings.state_of(recipe, ended, dropped)
    table = findings.write(recipe, url, ended, drawn, WORK, state).table
    return Finished(url, table)


def read(found: Finished, name: str) -> Any:
    return json.loads((Path(found.url) / name).read_text())


def test_the_table_has_one_row_for_each_cell(finished: Finished) -> None:
    table = pd.read_parquet(Path(finished.url) / "study.parquet")
    assert len(table) == 1 + 2 + 2 * 3 * 2
    assert set(METRICS) <= set(table.columns)
    assert table["images_per_class"].isna().sum() == 3
    assert (table["seconds"] > 0).all() and table["hash"].str.len().eq(16).all()
    assert table.loc[table["method"] == "zeroshot", "data"].tolist() == ["none"]


def test_every_cell_is_a_run_of_its_own(finished: Finished) -> None:
    folders = {path.name for path in (Path(finished.url) / "cells").iterdir()}
    assert folders == set(finished.table["cell"])
    for name in folders:
        results = read(finished, f"cells/{name}/results.json")
        row = finished.table.set_index("cell").loc[name]
        assert row["all_classes_hm"] == results["all_classes_hm"]


def test_a_configurations_own_values_reach_its_cells(finished: Finished) -> None:
    recipe = Recipe.load(str(Path(finished.url) / "cells" / "syncclip-both-2-seed2" / "recipe.yaml"))
    assert recipe.methods.syncclip.learning_rate == 0.01
    assert (recipe.training.images_per_class, recipe.training.seed) == (2, 2)
    steps = read(finished, "cells/ivlp-both-1-seed1/run.json")["total_steps"]
    assert read(finished, "cells/ivlp-real-seed1/run.json")["total_steps"] == 2 * steps


def test_a_cell_equals_the_same_run_by_itself(finished: Finished, tmp_path: Path) -> None:
    recipe = Recipe.load(str(Path(finished.url) / "cells" / "syncclip-both-4-seed1" / "recipe.yaml"))
    jobs.run_here(recipe, str(tmp_path / "alone"))
    cell = Path(finished.url) / "cells" / "syncclip-both-4-seed1" / "prompts.safetensors"
    assert (tmp_path / "alone" / "prompts.safetensors").read_bytes() == cell.read_bytes()


def test_the_state_names_configurations_amounts_and_cells(finished: Finished) -> None:
    state = read(finished, "study.json")
    assert state["classnames"] == CLASSES and state["base"] == 3
    assert [configuration["name"] for configuration in state["configurations"]] == [
        "zeroshot",
        "ivlp-real",
        "ivlp-both",
        "syncclip-both",
    ]
    assert {cell["status"] for cell in state["cells"]} == {"done"}


def test_comparisons_pair_the_reference_with_every_other(finished: Finished) -> None:
    pairs = read(finished, "comparisons.json")
    held = {(pair["images_per_class"], pair["baseline"]) for pair in pairs}
    assert held == {
        (n, configuration) for n in (1, 2, 4) for configuration in ("zeroshot", "ivlp-real", "ivlp-both")
    } | {(4, "syncclip-both")}
    assert {pair["metric"] for pair in pairs} == set(METRICS)
    table = finished.table
    pair = next(
        p for p in pairs if (p["images_per_class"], p["baseline"], p["metric"]) == (4, "ivlp-both", "all_classes_hm")
    )
    means = table[table["images_per_class"] == 4].groupby("configuration")["all_classes_hm"].mean()
    assert pair["estimate"] == pytest.approx(means["syncclip-both"] - means["ivlp-both"])
    assert pair["low"] <= pair["estimate"] <= pair["high"]


def test_every_configuration_with_amounts_has_a_curve(finished: Finished) -> None:
    curves = read(finished, "fit.json")["curves"]
    assert set(curves) == {"ivlp-both", "syncclip-both"}
    table = finished.table
    means = table.groupby(["configuration", "images_per_class"], dropna=False)["all_classes_hm"].mean()
    expected = [means["ivlp-real"].item(), *means["syncclip-both"]]
    assert curves["syncclip-both"]["all_classes_hm"]["amounts"] == [0, 1, 2, 4]
    assert curves["syncclip-both"]["all_classes_hm"]["means"] == pytest.approx([100 - mean for mean in expected])


def test_cost_and_data_efficiency_follow_from_the_measured_times(finished: Finished) -> None:
    efficiency, cost = read(finished, "data_efficiency.json"), read(finished, "cost.json")
    assert cost["synthesis"]["images"] == 24
    assert cost["training"]["cells"] == 15 and 0 < cost["training"]["busy_share"] <= 1
    assert efficiency["configuration"] == "syncclip-both"
    assert efficiency["images_per_hour"] == pytest.approx(3600 * cost["synthesis"]["images_per_second"])
    assert [entry["n"] for entry in efficiency["marginal"]["all_classes_hm"]] == [0, 1, 2, 4]
    assert efficiency["exchange"] == {}  # requires several numbers of shots


def test_the_feature_map_shows_both_domains_under_both_models(finished: Finished) -> None:
    features = pd.read_parquet(Path(finished.url) / "features.parquet")
    assert features.groupby(["model", "domain"]).size().to_dict() == {
        (model, domain): 12 for model in ("frozen", "trained") for domain in ("real", "synthetic")
    }
    assert np.isfinite(features[["x", "y"]]).all().all()
    shift = read(finished, "shift.json")
    assert shift["cell"] == "syncclip-both-4-seed1"
    assert shift["frozen"]["centroid_distance"] != shift["trained"]["centroid_distance"]
