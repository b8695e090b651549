"""A whole study on tiny worlds: it draws, trains, compares, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from syncclip import jobs
from syncclip.recipe import Recipe
from syncclip.settings import UserError
from syncclip.study.bootstrap import METRICS
from syncclip.study.cells import prepare, run_cells
from syncclip.study.grid import cells
from syncclip.study.run import Study, ensure_set, study, with_amounts
from tests.worlds.benchmark import CLASSES, tiny_benchmark
from tests.worlds.clip import make_clip_folder
from tests.worlds.generator import build_generator

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RECIPE = """
name: tiny
benchmark: {{name: {root}/benchmark, shots: 2}}
backbone: {{name: {root}/clip}}
synthesis:
  generator: {{pipeline: {root}/generator, steps: 1, batch_size: 6}}
  shard_size: 6
training: {{epochs: 2, batch: 3, window: 2}}
study:
  arms:
    - {{method: zeroshot}}
    - {{method: ivlp, data: real}}
    - {{method: ivlp, data: both, overrides: {{training.epochs: 1}}}}
    - {{method: syncclip, data: both, overrides: {{methods.syncclip.learning_rate: 0.01}}}}
  images_per_class: [1, 2, 4]
  seeds: [1, 2]
  draws: 200
  map_images: 12
storage: {{root: {root}/runs}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with benchmark, CLIP, generator and a recipe of them."""
    root = tmp_path_factory.mktemp("world")
    tiny_benchmark(root / "benchmark")
    make_clip_folder(root / "clip")
    build_generator(root / "generator")
    (root / "tiny.yaml").write_text(RECIPE.format(root=root))
    return root


def recipe_of(world: Path, *overrides: str) -> Recipe:
    return Recipe.load(str(world / "tiny.yaml"), overrides)


@pytest.fixture(scope="module")
def finished(world: Path, ray_cluster: None) -> Study:  # noqa: ARG001
    """The study of the recipe, run once for all tests that only look."""
    return study(recipe_of(world))


def read(found: Study, name: str) -> Any:
    return json.loads((Path(found.url) / name).read_text())


def stamps(folder: Path) -> dict[str, int]:
    """Name -> time of the last write of every cell's prompts."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cells/*/prompts.safetensors")}


def test_the_table_has_one_row_for_each_cell(finished: Study) -> None:
    table = pd.read_parquet(Path(finished.url) / "study.parquet")
    assert len(table) == 1 + 2 + 2 * 3 * 2
    assert set(METRICS) <= set(table.columns)
    assert table["images_per_class"].isna().sum() == 3
    assert (table["seconds"] > 0).all() and table["hash"].str.len().eq(16).all()
    assert table.loc[table["method"] == "zeroshot", "data"].tolist() == ["none"]


def test_every_cell_is_a_run_of_its_own(finished: Study) -> None:
    folders = {path.name for path in (Path(finished.url) / "cells").iterdir()}
    assert folders == set(finished.table["cell"])
    for name in folders:
        results = read(finished, f"cells/{name}/results.json")
        row = finished.table.set_index("cell").loc[name]
        assert row["open_hm"] == results["open_hm"]


def test_an_arms_own_values_reach_its_cells(finished: Study) -> None:
    recipe = Recipe.load(str(Path(finished.url) / "cells" / "syncclip-both-2-seed2" / "recipe.yaml"))
    assert recipe.methods.syncclip.learning_rate == 0.01
    assert (recipe.training.images_per_class, recipe.training.seed) == (2, 2)
    steps = read(finished, "cells/ivlp-both-1-seed1/run.json")["total_steps"]
    assert read(finished, "cells/ivlp-real-seed1/run.json")["total_steps"] == 2 * steps


def test_a_cell_equals_the_same_run_by_itself(finished: Study, tmp_path: Path) -> None:
    recipe = Recipe.load(str(Path(finished.url) / "cells" / "syncclip-both-4-seed1" / "recipe.yaml"))
    jobs.run_here(recipe, str(tmp_path / "alone"))
    cell = Path(finished.url) / "cells" / "syncclip-both-4-seed1" / "prompts.safetensors"
    assert (tmp_path / "alone" / "prompts.safetensors").read_bytes() == cell.read_bytes()


def test_the_state_names_arms_amounts_and_cells(finished: Study) -> None:
    state = read(finished, "study.json")
    assert state["classnames"] == CLASSES and state["base"] == 3
    assert [arm["name"] for arm in state["arms"]] == ["zeroshot", "ivlp-real", "ivlp-both", "syncclip-both"]
    assert {cell["status"] for cell in state["cells"]} == {"done"}


def test_comparisons_pair_the_focus_arm_with_every_other(finished: Study) -> None:
    pairs = read(finished, "comparisons.json")
    held = {(pair["images_per_class"], pair["against"]) for pair in pairs}
    assert held == {(n, arm) for n in (1, 2, 4) for arm in ("zeroshot", "ivlp-real", "ivlp-both")} | {
        (4, "syncclip-both")
    }
    assert {pair["metric"] for pair in pairs} == set(METRICS)
    table = finished.table
    pair = next(p for p in pairs if (p["images_per_class"], p["against"], p["metric"]) == (4, "ivlp-both", "open_hm"))
    means = table[table["images_per_class"] == 4].groupby("arm")["open_hm"].mean()
    assert pair["estimate"] == pytest.approx(means["syncclip-both"] - means["ivlp-both"])
    assert pair["low"] <= pair["estimate"] <= pair["high"]


def test_every_arm_with_amounts_has_a_curve(finished: Study) -> None:
    curves = read(finished, "fit.json")["curves"]
    assert set(curves) == {"ivlp-both", "syncclip-both"}
    table = finished.table
    means = table[table["arm"] == "syncclip-both"].groupby("images_per_class")["open_hm"].mean()
    assert curves["syncclip-both"]["open_hm"]["amounts"] == [1, 2, 4]
    assert curves["syncclip-both"]["open_hm"]["means"] == pytest.approx((100 - means).tolist())


def test_the_feature_map_shows_both_domains_under_both_models(finished: Study) -> None:
    features = pd.read_parquet(Path(finished.url) / "features.parquet")
    assert features.groupby(["model", "domain"]).size().to_dict() == {
        (model, domain): 12 for model in ("frozen", "trained") for domain in ("real", "synthetic")
    }
    assert np.isfinite(features[["x", "y"]]).all().all()
    shift = read(finished, "shift.json")
    assert shift["cell"] == "syncclip-both-4-seed1"
    assert shift["frozen"]["centroid_distance"] != shift["trained"]["centroid_distance"]


def test_the_cost_counts_pictures_and_hours(finished: Study) -> None:
    cost = read(finished, "cost.json")
    assert cost["synthesis"]["images"] == 24 and cost["synthesis"]["images_per_second"] > 0
    assert cost["training"]["cells"] == 15 and 0 < cost["training"]["busy_share"] <= 1


def test_the_tables_name_every_arm(finished: Study) -> None:
    text = (Path(finished.url) / "tables.md").read_text()
    assert all(arm in text for arm in ("zeroshot", "ivlp-real", "ivlp-both", "syncclip-both"))


def test_a_second_call_runs_no_cell_again(finished: Study, world: Path) -> None:
    before = stamps(Path(finished.url))
    again = study(recipe_of(world))
    assert stamps(Path(finished.url)) == before
    pd.testing.assert_frame_equal(again.table, finished.table)


@pytest.mark.usefixtures("finished")
def test_a_seed_and_an_amount_that_are_added_only_run_their_own_cells(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    small = ["study.seeds=[1]", "study.images_per_class=[1]", "synthesis.seed=5"]
    first = study(recipe_of(world, *small, f"storage.root={tmp_path}/runs"), str(out))
    before = stamps(out)
    grown = ["study.seeds=[1,2]", "study.images_per_class=[1,2]", "synthesis.seed=5"]
    second = study(recipe_of(world, *grown, f"storage.root={tmp_path}/runs"), str(out))
    after = stamps(out)
    assert (len(first.table), len(second.table)) == (4, 11)
    assert {name: after[name] for name in before} == before
    assert (out / "synthetic" / "plan.json").exists()


@pytest.mark.usefixtures("finished")
def test_a_killed_or_broken_cell_does_not_stop_the_others(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world, "study.seeds=[1]", "study.images_per_class=[1]", "study.retries=0")
    synthetic = ensure_set(recipe, None)
    assert synthetic is not None
    recipe, _ = with_amounts(recipe, synthetic)
    runs = prepare(recipe, cells(recipe.study), str(tmp_path), synthetic.url)
    ended, _ = run_cells(runs, recipe.study, task=break_some)
    assert {run.cell.name: run.status for run in ended} == {
        "zeroshot": "done",
        "ivlp-real-seed1": "failed",
        "ivlp-both-1-seed1": "failed",
        "syncclip-both-1-seed1": "done",
    }
    errors = {run.cell.name: run.error for run in ended}
    assert errors["ivlp-real-seed1"] == "the disk is full"


def break_some(spec: dict[str, Any]) -> dict[str, Any]:
    """A cell that fails, one whose process dies, others that end well; nothing is trained."""
    if "ivlp-real" in spec["url"]:
        return {"seconds": 0.1, "error": "the disk is full"}
    if "ivlp-both" in spec["url"]:
        os._exit(1)
    return {"seconds": 0.1, "error": None}


@pytest.mark.usefixtures("finished")
def test_failed_cells_are_named_at_the_end_and_tried_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ["study.seeds=[1]", "study.images_per_class=[1]", f"training.synthetic={world}/runs/tiny/synthetic"]
    failing = "study.arms=[{method: zeroshot}, {method: syncclip, overrides: {training.device: cuda}}]"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"1 of 2 cells failed .* syncclip-both-1-seed1: training.device is 'cuda'"):
        study(recipe_of(world, *values, failing), str(tmp_path))
    assert read_state(tmp_path) == {"zeroshot": "done", "syncclip-both-1-seed1": "failed"}
    study(recipe_of(world, *values, "study.arms=[{method: zeroshot}, {method: syncclip}]"), str(tmp_path))
    assert read_state(tmp_path) == {"zeroshot": "done", "syncclip-both-1-seed1": "done"}


def read_state(folder: Path) -> dict[str, str]:
    return {cell["cell"]: cell["status"] for cell in json.loads((folder / "study.json").read_text())["cells"]}


@pytest.mark.usefixtures("finished")
def test_a_changed_recipe_does_not_go_on_in_an_old_folder(world: Path) -> None:
    with pytest.raises(UserError, match=r"holds run .* training.epochs: 2 -> 3"):
        study(recipe_of(world, "training.epochs=3"))


@pytest.mark.usefixtures("finished")
def test_amounts_are_cut_to_what_a_given_set_holds(world: Path) -> None:
    recipe = recipe_of(world, f"training.synthetic={world}/runs/tiny/synthetic", "study.images_per_class=[1,3,64]")
    cut, dropped = with_amounts(recipe, ensure_set(recipe, None))
    assert (cut.study.amounts, dropped) == ([1, 3, 4], [64])


@pytest.mark.usefixtures("finished")
def test_more_cpus_than_there_are_is_refused(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world, "study.cpus=99", "study.arms=[{method: zeroshot}]")
    with pytest.raises(UserError, match=r"study\.cpus is 99, but the cluster has"):
        study(recipe, str(tmp_path))
