"""Studies on Ray with a tiny dataset: synthesis, trainings, results, and resumption."""

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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset, CLIP, generator and recipe, and a synthetic dataset with 4 images per class in `set`."""
    root = study_world(tmp_path_factory.mktemp("world"))
    make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    return root


def recipe_of(world: Path, *overrides: str) -> Recipe:
    return study_recipe(world, "study.seeds=[1]", "study.images_per_class=[1,2]", *overrides)


@pytest.fixture(scope="module")
def finished(world: Path, ray_cluster: None) -> Study:
    """A study with generated images, shared by the tests."""
    return study(recipe_of(world))


def stamps(folder: Path) -> dict[str, int]:
    """Modification time of each training's prompts."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("cells/*/prompts.safetensors")}


def statuses(folder: Path) -> dict[str, str]:
    return {cell["cell"]: cell["status"] for cell in json.loads((folder / "study.json").read_text())["cells"]}


def test_study_generates_trains_and_compares(finished: Study, world: Path) -> None:
    assert len(finished.table) == 1 + 1 + 2 * 2
    assert (world / "runs" / "tiny" / "synthetic" / "00001_stats.json").exists()
    written = {path.name for path in Path(finished.url).iterdir()}
    assert {"study.parquet", "fit.json", "comparisons.json", "shift.json", "cost.json", "tables.md"} <= written
    finished.check()


def test_repeated_call_runs_no_training(finished: Study, world: Path) -> None:
    before = stamps(Path(finished.url))
    repeated = study(recipe_of(world))
    assert stamps(Path(finished.url)) == before
    pd.testing.assert_frame_equal(repeated.table, finished.table)


def test_extended_study_runs_only_the_added_trainings(world: Path, tmp_path: Path) -> None:
    synthetic = f"training.synthetic={world}/set"
    first = study(recipe_of(world, synthetic, "study.images_per_class=[1]"), str(tmp_path))
    before = stamps(tmp_path)
    second = study(recipe_of(world, synthetic, "study.seeds=[1,2]"), str(tmp_path))
    after = stamps(tmp_path)
    assert (len(first.table), len(second.table)) == (4, 11)
    assert {name: after[name] for name in before} == before


def fail_some(spec: dict[str, Any]) -> dict[str, Any]:
    """A task that fails for one configuration, ends its process for another, and trains nothing."""
    if "ivlp-real" in spec["url"]:
        return {"seconds": 0.1, "error": "the disk is full"}
    if "ivlp-both" in spec["url"]:
        os._exit(1)
    return {"seconds": 0.1, "error": None}


def test_failed_or_killed_training_does_not_stop_the_others(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(world, f"training.synthetic={world}/set", "study.images_per_class=[1]", "study.retries=0")
    synthetic = ensure_set(recipe, None)
    assert synthetic is not None
    recipe, _ = with_amounts(recipe, synthetic)
    runs = prepare(recipe, cells(recipe.study), str(tmp_path), synthetic.url)
    ended, _ = run_cells(runs, recipe.study, task=fail_some)
    assert {run.cell.name: run.status for run in ended} == {
        "zeroshot": "done",
        "ivlp-real-seed1": "failed",
        "ivlp-both-1-seed1": "failed",
        "syncclip-both-1-seed1": "done",
    }
    assert {run.cell.name: run.error for run in ended}["ivlp-real-seed1"] == "the disk is full"
    line = next(line for line in capsys.readouterr().err.splitlines() if "running" in line)
    assert re.search(r"running \d · longest (zeroshot|ivlp-real-seed1) for \d+ s$", line)


def test_failed_trainings_are_reported_and_retried(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ["study.images_per_class=[1]", f"training.synthetic={world}/set"]
    configurations = "study.configurations=[{{method: zeroshot}}, {{method: syncclip{}}}]"
    failing = configurations.format(", overrides: {training.device: cuda}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"1 of 2 training runs failed .* syncclip-both-1-seed1: training.device"):
        study(recipe_of(world, *values, failing), str(tmp_path)).check()
    assert statuses(tmp_path) == {"zeroshot": "done", "syncclip-both-1-seed1": "failed"}
    study(recipe_of(world, *values, configurations.format("")), str(tmp_path))
    assert statuses(tmp_path) == {"zeroshot": "done", "syncclip-both-1-seed1": "done"}


@pytest.mark.usefixtures("finished")
def test_changed_recipe_does_not_resume_in_the_same_folder(world: Path) -> None:
    with pytest.raises(UserError, match=r"contains run .*training\.epochs: 2 -> 3"):
        study(recipe_of(world, "training.epochs=3"))
