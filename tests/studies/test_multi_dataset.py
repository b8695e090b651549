"""A study on a suite of datasets, run in this process: the average, and the study of each dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset, suite_of
from syncclip.recipe.recipe import Recipe
from syncclip.reports import report
from syncclip.shards.writer import Sample, write_shard
from syncclip.studies import run as running
from syncclip.studies import tune as tuning
from syncclip.studies.cells import CellRun, cell_recipe
from syncclip.studies.grid import Cell
from syncclip.studies.predictions import recompute
from syncclip.studies.run import Study, study
from syncclip.studies.status import StudyStatus
from syncclip.verify import verify
from tests.worlds.dataset import encoded, make_image
from tests.worlds.study import MEMBERS, make_set, run_cells_here, study_recipe, suite_recipe


def read(finished: Study, name: str) -> Any:
    return json.loads((Path(finished.url) / name).read_text())


def problems(folder: str | Path) -> list[str]:
    return verify(str(folder), lambda _: None).problems


def test_datasets_of_a_suite(suite_world: Path) -> None:
    datasets = suite_of(suite_recipe(suite_world).dataset)
    expected = {name: f"{suite_world}/suite/{name}" for name in MEMBERS}
    assert {name: settings.name for name, settings in datasets.items()} == expected
    assert suite_of(study_recipe(suite_world).dataset) == {}
    assert load_dataset(datasets["second"]).name == "shapes"
    with pytest.raises(UserError, match=r"is a suite of 2 datasets; select one dataset"):
        load_dataset(suite_recipe(suite_world).dataset)


@pytest.mark.parametrize("content", ['{"datasets": ["one"]}', '{"datasets": ["../up", "b"]}', "[]", "{"])
def test_invalid_suite_is_reported_with_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "suite.json").write_text(content)
    with pytest.raises(UserError, match=r"suite\.json.*list the suite"):
        load_dataset(Recipe.of_defaults([f"dataset.name={tmp_path}"]).dataset)


def test_each_dataset_has_a_study_in_that_of_the_suite(suite_study: Study) -> None:
    for name in MEMBERS:
        state = read(suite_study, f"{name}/study.json")
        assert state["name"] == name and {cell["status"] for cell in state["cells"]} == {"done"}
        assert (Path(suite_study.url) / name / "fit.json").exists()
    state = read(suite_study, "study.json")
    assert state["datasets"] == [*MEMBERS] and {cell["status"] for cell in state["cells"]} == {"done"}


def test_suite_averages_accuracies_and_takes_harmonic_means_of_the_averages(suite_study: Study) -> None:
    rows = pd.read_parquet(Path(suite_study.url) / "datasets.parquet")
    assert set(rows["dataset"]) == {*MEMBERS} and len(rows) == 2 * len(suite_study.table)
    cell = suite_study.table.set_index("cell").loc["syncclip-both-4-seed2"]
    parts = rows[rows["cell"] == "syncclip-both-4-seed2"]
    assert cell["novel"] == pytest.approx(parts["novel"].mean())
    base, novel = parts["all_classes_base"].mean(), parts["all_classes_novel"].mean()
    assert cell["all_classes_hm"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
    assert cell["seconds"] == pytest.approx(parts["seconds"].sum())


def test_comparisons_and_curves_are_those_of_the_average(suite_study: Study) -> None:
    pairs = [pair for pair in read(suite_study, "comparisons.json") if pair["baseline"] == "ivlp-real"]
    assert {pair["unit"] for pair in pairs} == {"images", "classes", "datasets"}
    assert {pair["images"] for pair in pairs} == {6 * 4 + 6 * 6}
    means = suite_study.table.groupby(["configuration", "images_per_class"], dropna=False)["novel"].mean()
    pair = next(pair for pair in pairs if (pair["images_per_class"], pair["metric"]) == (4, "novel"))
    assert pair["estimate"] == pytest.approx(means["syncclip-both", 4] - means["ivlp-real"].item())
    curve = read(suite_study, "fit.json")["curves"]["syncclip-both"]["novel"]
    assert curve["amounts"] == [0, 1, 2, 4]
    assert curve["means"][0] == pytest.approx(100 - means["ivlp-real"].item())


def test_report_of_a_suite_has_a_table_of_datasets(suite_study: Study) -> None:
    page = Path(report(suite_study.url)).read_text()
    assert "Results by dataset" in page
    assert '<th scope="col">first</th><th scope="col">second</th>' in page
    assert "is a suite of" not in page  # no note about missing images


def test_every_file_of_a_suite_is_verified(suite_study: Study) -> None:
    assert problems(suite_study.url) == []
    path = Path(suite_study.url) / "second" / "cells" / "zeroshot" / "results.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"base", b"bass", 1))
    assert any("zeroshot/results.json" in problem for problem in problems(suite_study.url))
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["predictions.parquet", "datasets.parquet", "second/predictions.parquet", "second/study.json", "second"]
)
def test_missing_file_or_dataset_of_a_suite_is_reported(suite_study: Study, name: str, tmp_path: Path) -> None:
    shutil.copytree(suite_study.url, tmp_path, dirs_exist_ok=True)
    path = tmp_path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert any(f"{name} is missing" in problem for problem in problems(tmp_path))


@pytest.mark.parametrize("larger", MEMBERS)
def test_suite_is_trained_at_numbers_of_images_that_all_datasets_have(
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


def test_training_that_fails_on_one_dataset_is_reported_and_not_averaged(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_one(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], StudyStatus]:
        failing = [run for run in runs if "second/cells/ivlp-real" in run.url]
        ended, status = run_cells_here([run for run in runs if run not in failing])
        return [*ended, *(replace(run, status="failed", error="the disk is full") for run in failing)], status

    monkeypatch.setattr(running, "run_cells", fail_one)
    done = study(suite_recipe(suite_world, "study.seeds=[1]", "study.images_per_class=[1]"), str(tmp_path))
    assert done.failed == {"second ivlp-real-seed1": "the disk is full"}
    assert "ivlp-real-seed1" not in set(done.table["cell"]) and "zeroshot" in set(done.table["cell"])
    cells = {cell["cell"]: (cell["status"], cell["error"]) for cell in read(done, "study.json")["cells"]}
    assert cells["ivlp-real-seed1"] == ("failed", "second: the disk is full")


@pytest.mark.parametrize("key", ["synthetic", "teacher"])
def test_paths_in_a_recipe_are_folders_with_one_entry_per_dataset(suite_world: Path, key: str) -> None:
    distilled = ", methods.syncclip.distillation_weight: 1.0" if key == "teacher" else ""
    overrides = f"{{training.{key}: /other{distilled}}}"
    values = (
        f"study.configurations=[{{method: syncclip}}, {{method: syncclip, name: other, overrides: {overrides}}}]",
        f"training.{key}=/one",
    )
    for name, recipe in running.by_dataset(suite_recipe(suite_world, *values)).items():
        runs = [
            cell_recipe(recipe, Cell(configuration, 1, 1), recipe.training.synthetic)
            for configuration in recipe.study.configurations
        ]
        assert [getattr(run.training, key) for run in runs] == [f"/one/{name}", f"/other/{name}"]


def test_hyperparameters_are_selected_by_the_mean_over_datasets(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "run_cells", run_cells_here)
    configuration = "study.configurations=[{method: ivlp, data: real, search_space: {training.epochs: [1, 2]}}]"
    tuning.tune(suite_recipe(suite_world, configuration), str(tmp_path))
    tried = json.loads((tmp_path / "tuned.json").read_text())["configurations"]["ivlp-real"]["search_space"]
    for number, candidate in enumerate(tried):
        paths = [tmp_path / name / "cells" / f"ivlp-real-try{number}-seed1" / "results.json" for name in MEMBERS]
        scores = [json.loads(path.read_text())["all_classes_hm"] for path in paths]
        assert candidate["all_classes_hm"] == pytest.approx(sum(scores) / 2)


def test_upper_bound_requires_real_images_of_novel_classes(suite_world: Path) -> None:
    dataset = suite_world / "untrained"
    shutil.copytree(suite_world / "suite" / "first", dataset)
    shutil.rmtree(dataset / "train")
    samples = [Sample(i, i % 3, encoded(make_image(i % 3, i)), "") for i in range(24)]
    write_shard(str(dataset / "train"), 0, samples)
    configurations = "study.configurations=[{method: zeroshot}, {method: ivlp, data: all_real}]"
    with pytest.raises(UserError, match="dataset .* has none for 3 novel classes"):
        study(study_recipe(suite_world, f"dataset.name={dataset}", configurations), str(suite_world / "rejected"))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("evaluation.test_domains=[both]", "set test_domains for each configuration"),
        (
            "study.configurations=[{method: syncclip, overrides: {evaluation.test_domains: [both]}}]",
            "set the configuration's test_domains instead",
        ),
    ],
)
def test_a_study_takes_test_domains_from_its_configurations(
    suite_world: Path, tmp_path: Path, value: str, error: str
) -> None:
    with pytest.raises(UserError, match=error):
        study(suite_recipe(suite_world, value), str(tmp_path))


def test_test_domains_are_configurations_without_further_trainings(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def run_cells(runs: Sequence[CellRun], *_: object, **__: object) -> tuple[list[CellRun], StudyStatus]:
        trained.extend(run.cell.name for run in runs)
        return run_cells_here(runs)

    monkeypatch.setattr(running, "run_cells", run_cells)
    configurations = "[{method: ivlp, data: real}, {method: syncclip, test_domains: [both]}]"
    values = [f"study.configurations={configurations}", "study.seeds=[1, 2]", "study.images_per_class=[1, 4]"]
    done = study(suite_recipe(suite_world, *values, "study.reference=syncclip-both"), str(tmp_path))
    done.check()
    assert len(trained) == done.cells == 2 * (2 + 4) and not any("@" in name for name in trained)
    table = done.table.set_index("configuration")
    assert table.index.value_counts().to_dict() == {"ivlp-real": 2, "syncclip-both": 4, "syncclip-both@both": 4}
    pairs = {(each.configuration, each.images_per_class, each.baseline) for each in done.comparisons}
    assert {("syncclip-both", n, "syncclip-both@both") for n in (1, 4)} <= pairs
    assert problems(tmp_path) == []
    recomputed = recompute(str(tmp_path))
    assert recomputed.differ == [] and "syncclip-both@both" in set(recomputed.means["configuration"])
    state = read(done, "study.json")
    assert [each["name"] for each in state["configurations"]] == ["ivlp-real", "syncclip-both", "syncclip-both@both"]
    assert len(state["cells"]) == 2 + 4


def test_datasets_without_images_share_a_ray_session_unless_they_need_a_gpu(
    suite_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextmanager
    def session() -> Iterator[None]:
        events.append("start")
        yield
        events.append("end")

    def synth(recipe: Recipe, url: str) -> SimpleNamespace:
        events.append(recipe.name)
        if not (Path(url) / "plan.json").exists():
            make_set(recipe, url)
        return SimpleNamespace(url=url, work=SimpleNamespace(images=0))

    monkeypatch.setattr(running, "run_cells", run_cells_here)
    monkeypatch.setattr(running, "ray_session", session)
    monkeypatch.setattr(running.jobs, "synth", synth)
    values = "training.synthetic=null", "study.configurations=[{method: probe}]", "study.seeds=[1]"
    recipe = suite_recipe(suite_world, *values, "study.images_per_class=[1]", "synthesis.images_per_class=1")

    for expected in (["start", *MEMBERS, "end"], [*MEMBERS]):  # then all images exist
        study(recipe, str(tmp_path / "study")).check()
        assert events == expected
        events.clear()
    study(recipe.with_values({"synthesis.num_gpus": 1}), str(tmp_path / "gpu"))
    assert events == [*MEMBERS]
