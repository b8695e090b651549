"""A study of a suite, whose cells run in this process: its average, and each dataset's own study in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset, suite_of
from syncclip.recipe.recipe import Recipe
from syncclip.reports import report
from syncclip.shards.writer import Sample, write_shard
from syncclip.studies import run as running
from syncclip.studies import tune as choosing
from syncclip.studies.cells import CellRun, cell_recipe
from syncclip.studies.grid import Cell
from syncclip.studies.run import Study, study
from syncclip.studies.status import StudyStatus
from syncclip.verify import verify
from tests.worlds.dataset import encoded, make_image
from tests.worlds.study import MEMBERS, make_set, run_cells_here, study_recipe, suite_recipe


def read(found: Study, name: str) -> Any:
    return json.loads((Path(found.url) / name).read_text())


def test_a_suite_names_its_datasets(suite_world: Path) -> None:
    found = suite_of(suite_recipe(suite_world).dataset)
    assert {name: one.name for name, one in found.items()} == {name: f"{suite_world}/suite/{name}" for name in MEMBERS}
    assert suite_of(study_recipe(suite_world).dataset) == {}
    assert load_dataset(found["second"]).name == "shapes"


def test_what_runs_on_one_dataset_refuses_a_suite_and_names_one_of_its(suite_world: Path) -> None:
    with pytest.raises(UserError, match=r"is a suite of 2 datasets; use one of them, such as '.*/suite/first'"):
        load_dataset(suite_recipe(suite_world).dataset)


@pytest.mark.parametrize("content", ['{"datasets": ["one"]}', '{"datasets": ["../up", "b"]}', "[]", "{"])
def test_a_suite_that_names_no_datasets_is_refused_by_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "suite.json").write_text(content)
    with pytest.raises(UserError, match=r"suite\.json.*list the folders of its datasets in it"):
        load_dataset(Recipe.of_defaults([f"dataset.name={tmp_path}"]).dataset)


def test_each_dataset_has_a_study_of_its_own_in_the_suites(suite_study: Study) -> None:
    for name in MEMBERS:
        own = read(suite_study, f"{name}/study.json")
        assert own["name"] == name and {cell["status"] for cell in own["cells"]} == {"done"}
        assert (Path(suite_study.url) / name / "fit.json").exists()
    state = read(suite_study, "study.json")
    assert state["datasets"] == [*MEMBERS] and {cell["status"] for cell in state["cells"]} == {"done"}


def test_the_average_is_of_the_datasets_and_harmonic_means_are_those_of_the_means(suite_study: Study) -> None:
    every = pd.read_parquet(Path(suite_study.url) / "datasets.parquet")
    assert set(every["dataset"]) == {*MEMBERS} and len(every) == 2 * len(suite_study.table)
    cell = suite_study.table.set_index("cell").loc["syncclip-both-4-seed2"]
    parts = every[every["cell"] == "syncclip-both-4-seed2"]
    assert cell["novel"] == pytest.approx(parts["novel"].mean())
    base, novel = parts["all_classes_base"].mean(), parts["all_classes_novel"].mean()
    assert cell["all_classes_hm"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
    assert cell["seconds"] == pytest.approx(parts["seconds"].sum())


def test_comparisons_and_curves_are_of_the_average(suite_study: Study) -> None:
    pairs = [one for one in read(suite_study, "comparisons.json") if one["baseline"] == "ivlp-real"]
    assert {one["unit"] for one in pairs} == {"images", "classes", "datasets"}
    assert {one["images"] for one in pairs} == {6 * 4 + 6 * 6}
    means = suite_study.table.groupby(["configuration", "images_per_class"], dropna=False)["novel"].mean()
    pair = next(one for one in pairs if (one["images_per_class"], one["metric"]) == (4, "novel"))
    assert pair["estimate"] == pytest.approx(means["syncclip-both", 4] - means["ivlp-real"].item())
    curve = read(suite_study, "fit.json")["curves"]["syncclip-both"]["novel"]
    assert curve["amounts"] == [0, 1, 2, 4]
    assert curve["means"][0] == pytest.approx(100 - means["ivlp-real"].item())


def test_a_report_of_a_suite_has_a_table_of_its_datasets(suite_study: Study) -> None:
    page = Path(report(suite_study.url)).read_text()
    assert "Results by dataset" in page
    assert '<th scope="col">first</th><th scope="col">second</th>' in page
    assert "is a suite of" not in page  # no note that its images are missing


def test_every_file_of_a_suites_study_is_verified(suite_study: Study) -> None:
    found = verify(suite_study.url, lambda _: None)
    assert found.problems == []
    place = Path(suite_study.url) / "second" / "cells" / "zeroshot" / "results.json"
    whole = place.read_bytes()
    place.write_bytes(whole.replace(b"base", b"bass", 1))
    assert any("zeroshot/results.json" in one for one in verify(suite_study.url, lambda _: None).problems)
    place.write_bytes(whole)


@pytest.mark.parametrize(
    "name", ["predictions.parquet", "datasets.parquet", "second/predictions.parquet", "second/study.json"]
)
def test_a_file_that_is_missing_from_a_suites_study_is_reported(suite_study: Study, name: str, tmp_path: Path) -> None:
    shutil.copytree(suite_study.url, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    assert any(f"{name} is missing" in one for one in verify(str(tmp_path), lambda _: None).problems)


def test_a_dataset_that_is_missing_from_a_suites_study_is_reported(suite_study: Study, tmp_path: Path) -> None:
    shutil.copytree(suite_study.url, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "second")
    (problem,) = verify(str(tmp_path), lambda _: None).problems
    assert problem.startswith(f"{tmp_path}/second is missing")


@pytest.mark.parametrize("larger", MEMBERS)
def test_all_datasets_are_trained_at_the_amounts_that_every_set_holds(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, larger: str
) -> None:
    monkeypatch.setattr(running, "run_cells", run_cells_here)
    for name in MEMBERS:
        amount = f"synthesis.images_per_class={4 if name == larger else 2}"
        make_set(study_recipe(suite_world, f"dataset.name={suite_world}/suite/{name}", amount), f"{tmp_path}/{name}")
    configurations = "study.configurations=[{method: zeroshot}, {method: syncclip}]"
    recipe = suite_recipe(suite_world, configurations, "study.seeds=[1]", f"training.synthetic={tmp_path}")
    done = study(recipe, f"{tmp_path}/study")
    state = read(done, "study.json")
    assert (state["images_per_class"], state["dropped"]) == ([1, 2], [4])
    assert sorted(done.table["images_per_class"].dropna()) == [1, 2]
    assert [cell["cell"] for cell in state["cells"]] == list(done.table["cell"])


def test_a_cell_that_failed_on_one_dataset_is_told_with_it_and_left_out_of_the_average(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_one(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], StudyStatus]:
        ended, status = run_cells_here([run for run in runs if "second/cells/ivlp-real" not in run.url])
        broken = [run for run in runs if "second/cells/ivlp-real" in run.url]
        return [*ended, *(replace(run, status="failed", error="the disk is full") for run in broken)], status

    monkeypatch.setattr(running, "run_cells", break_one)
    done = study(suite_recipe(suite_world, "study.seeds=[1]", "study.images_per_class=[1]"), str(tmp_path))
    assert done.failed == {"second ivlp-real-seed1": "the disk is full"}
    assert "ivlp-real-seed1" not in set(done.table["cell"]) and "zeroshot" in set(done.table["cell"])
    cells = {cell["cell"]: (cell["status"], cell["error"]) for cell in read(done, "study.json")["cells"]}
    assert cells["ivlp-real-seed1"] == ("failed", "second: the disk is full")


@pytest.mark.parametrize("key", ["synthetic", "teacher"])
def test_paths_of_a_configuration_are_those_of_the_dataset(suite_world: Path, key: str) -> None:
    distilled = ", methods.syncclip.distillation_weight: 1.0" if key == "teacher" else ""
    overrides = f"{{training.{key}: /other{distilled}}}"
    values = (
        f"study.configurations=[{{method: syncclip}}, {{method: syncclip, name: other, overrides: {overrides}}}]",
        f"training.{key}=/one",
    )
    for name, recipe in running.by_dataset(suite_recipe(suite_world, *values)).items():
        own, other = (
            cell_recipe(recipe, Cell(configuration, 1, 1), recipe.training.synthetic)
            for configuration in recipe.study.configurations
        )
        paths = (getattr(own.training, key), getattr(other.training, key))
        assert paths == (f"/one/{name}", f"/other/{name}")


def test_settings_are_chosen_by_the_mean_over_datasets(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "run_cells", run_cells_here)
    configuration = "study.configurations=[{method: ivlp, data: real, search_space: {training.epochs: [1, 2]}}]"
    choosing.tune(suite_recipe(suite_world, configuration), str(tmp_path))
    tried = json.loads((tmp_path / "tuned.json").read_text())["configurations"]["ivlp-real"]["search_space"]
    for number, candidate in enumerate(tried):
        scores = [
            json.loads((tmp_path / name / "cells" / f"ivlp-real-try{number}-seed1" / "results.json").read_text())
            for name in MEMBERS
        ]
        assert candidate["all_classes_hm"] == pytest.approx(sum(one["all_classes_hm"] for one in scores) / 2)


def test_all_real_without_images_of_novel_classes_is_refused_at_once(suite_world: Path) -> None:
    dataset = suite_world / "untrained"
    shutil.copytree(suite_world / "suite" / "first", dataset)
    shutil.rmtree(dataset / "train")
    samples = [Sample(i, i % 3, encoded(make_image(i % 3, i)), "") for i in range(24)]
    write_shard(str(dataset / "train"), 0, samples)
    configurations = "study.configurations=[{method: zeroshot}, {method: ivlp, data: all_real}]"
    with pytest.raises(UserError, match="3 of them have none in dataset"):
        study(study_recipe(suite_world, f"dataset.name={dataset}", configurations), str(suite_world / "refused"))
