"""A whole study on Ray, in a tiny world: it draws, trains, compares, and goes on where it was stopped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.studies.cells import prepare, run_cells
from syncclip.studies.grid import cells
from syncclip.studies.run import Study, ensure_set, study, with_amounts
from tests.worlds.study import make_set, study_recipe, study_world

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

SMALL = ("study.seeds=[1]", "study.images_per_class=[1,2]")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset, CLIP, generator, a recipe of them, and a set of 4 images per class in `set`."""
    root = study_world(tmp_path_factory.mktemp("world"))
    make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    return root


def recipe_of(world: Path, *overrides: str) -> Recipe:
    return study_recipe(world, *SMALL, *overrides)


@pytest.fixture(scope="module")
def finished(world: Path, ray_cluster: None) -> Study:
    """A study from end to end, synthesis included, run once for the tests that continue from it."""
    return study(recipe_of(world))


def stamps(folder: Path) -> dict[str, int]:
    """Name -> time of the last write of every cell's prompts."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cells/*/prompts.safetensors")}


def test_one_call_generates_trains_and_compares(finished: Study, world: Path) -> None:
    assert len(finished.table) == 1 + 1 + 2 * 2
    assert (world / "runs" / "tiny" / "synthetic" / "00001_stats.json").exists()
    written = {path.name for path in Path(finished.url).iterdir()}
    assert {"study.parquet", "fit.json", "comparisons.json", "shift.json", "cost.json", "tables.md"} <= written
    finished.check()


def test_a_second_call_runs_no_cell_again(finished: Study, world: Path) -> None:
    before = stamps(Path(finished.url))
    again = study(recipe_of(world))
    assert stamps(Path(finished.url)) == before
    pd.testing.assert_frame_equal(again.table, finished.table)


def test_a_seed_and_an_amount_that_are_added_only_run_their_own_cells(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "grown"
    given = f"training.synthetic={world}/set"
    first = study(recipe_of(world, given, "study.images_per_class=[1]"), str(out))
    before = stamps(out)
    second = study(recipe_of(world, given, "study.seeds=[1,2]"), str(out))
    after = stamps(out)
    assert (len(first.table), len(second.table)) == (4, 11)
    assert {name: after[name] for name in before} == before


def test_a_killed_or_broken_cell_does_not_stop_the_others(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(world, f"training.synthetic={world}/set", "study.images_per_class=[1]", "study.retries=0")
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
    begun = next(line for line in capsys.readouterr().err.splitlines() if "running" in line)
    assert re.search(r"running \d · longest (zeroshot|ivlp-real-seed1) for \d+ s$", begun)


def break_some(spec: dict[str, Any]) -> dict[str, Any]:
    """A cell that fails, one whose process dies, others that end well; nothing is trained."""
    if "ivlp-real" in spec["url"]:
        return {"seconds": 0.1, "error": "the disk is full"}
    if "ivlp-both" in spec["url"]:
        os._exit(1)
    return {"seconds": 0.1, "error": None}


def test_failed_cells_are_named_at_the_end_and_tried_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ["study.images_per_class=[1]", f"training.synthetic={world}/set"]
    failing = "study.configurations=[{method: zeroshot}, {method: syncclip, overrides: {training.device: cuda}}]"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"1 of 2 trainings failed .* syncclip-both-1-seed1: training.device is 'cuda'"):
        study(recipe_of(world, *values, failing), str(tmp_path)).check()
    assert read_state(tmp_path) == {"zeroshot": "done", "syncclip-both-1-seed1": "failed"}
    study(recipe_of(world, *values, "study.configurations=[{method: zeroshot}, {method: syncclip}]"), str(tmp_path))
    assert read_state(tmp_path) == {"zeroshot": "done", "syncclip-both-1-seed1": "done"}


def read_state(folder: Path) -> dict[str, str]:
    return {cell["cell"]: cell["status"] for cell in json.loads((folder / "study.json").read_text())["cells"]}


@pytest.mark.usefixtures("finished")
def test_a_changed_recipe_does_not_go_on_in_an_old_folder(world: Path) -> None:
    with pytest.raises(UserError, match=r"contains run .*training\.epochs: 2 -> 3"):
        study(recipe_of(world, "training.epochs=3"))


def test_amounts_are_cut_to_what_a_given_set_holds(world: Path) -> None:
    recipe = recipe_of(world, f"training.synthetic={world}/set", "study.images_per_class=[1,3,64]")
    cut, dropped = with_amounts(recipe, ensure_set(recipe, None))
    assert (cut.study.amounts, dropped) == ([1, 3, 4], [64])


def test_more_cpus_than_there_are_is_refused(world: Path, tmp_path: Path) -> None:
    recipe = recipe_of(world, "study.cpus=99", "study.configurations=[{method: zeroshot}]")
    with pytest.raises(UserError, match=r"study\.cpus is 99, but the cluster has"):
        study(recipe, str(tmp_path))
