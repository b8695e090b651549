"""Concurrent trainings, checks of configurations, and caches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import StudySettings
from syncclip.storage import files, urls
from syncclip.studies import cells, grid
from syncclip.studies.cells import CellRun
from syncclip.studies.run import study
from syncclip.studies.tune import tune
from syncclip.training.run_folder import RunFolder
from tests.worlds.study import make_set, study_recipe, study_world


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    resources = {"CPU": 16.0, "GPU": 2.0}
    monkeypatch.setattr(cells, "capacity", lambda _: dict(resources))
    return resources


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"),
    [(1, 0, 16), (4, 0, 4), (0.5, 0, 32), (1, 1, 2), (1, 0.25, 8), (4, 0.25, 4), (1, 0.001, 16), (0.01, 0, 256)],
)
def test_scarcer_resource_limits_concurrent_trainings(
    cluster: dict[str, float], cpus: float, gpus: float, slots: int
) -> None:
    assert cells._slots(StudySettings(cpus=cpus, gpus=gpus), {}, first=True) == slots


def test_slots_follow_the_machines_of_the_cluster(cluster: dict[str, float]) -> None:
    settings = StudySettings(cpus=4, gpus=0.5)
    assert cells._slots(settings, {}, first=True) == 4
    cluster.update(CPU=32.0, GPU=4.0)
    assert cells._slots(settings, {}) == 8
    cluster.update(CPU=2.0, GPU=0.0)  # a lost machine may return
    assert cells._slots(settings, {}) == 1


def test_cluster_that_is_too_small_is_reported_at_the_start(cluster: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"study\.gpus is 3, but the cluster has 2 GPUs"):
        cells._slots(StudySettings(gpus=3), {}, first=True)


def test_synthetic_dataset_is_read_once_for_all_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = study_world(tmp_path)
    synthetic = make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    accessed: list[str] = []

    def local_path(url: str) -> Path:
        accessed.append(url)
        return urls.local_path(url)

    def count(*values: str) -> tuple[int, int]:
        recipe = study_recipe(root, f"training.synthetic={synthetic}", *values)
        accessed.clear()
        runs = cells.prepare(recipe, grid.cells(recipe.study), str(root / "study"), synthetic)
        return len(runs), sum(url.startswith(synthetic) for url in accessed)

    monkeypatch.setattr(files, "local_path", local_path)
    few, many = count("study.images_per_class=[4]", "study.seeds=[1]"), count("study.seeds=[1,2,3,4,5,6]")
    assert many[0] > 5 * few[0]
    assert many[1] == few[1] > 0


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("{method: ivp}", "unknown method 'ivp'"),
        ("{method: ivlp, overrides: {training.epoch: 3}}", "training.epoch: no such key"),
        ("{method: ivlp, images_per_class: [3]}", "images_per_class [3] contains none of"),
        ("{method: ivlp, search_space: {training.epochs: [1, 0]}}", "training.epochs: 0 is not allowed"),
    ],
)
def test_invalid_configuration_is_reported_before_anything_is_generated(
    configuration: str, message: str, tmp_path: Path
) -> None:
    recipe = Recipe.load(
        "icons", [f"study.configurations=[{{method: coop, search_space: {{training.seed: [1]}}}}, {configuration}]"]
    )
    for run in (study, tune):
        with pytest.raises(UserError) as error:
            run(recipe, str(tmp_path))
        name = recipe.study.configurations[1].name
        assert str(error.value).startswith(f"recipe 'icons': study.configurations[1] '{name}': ")
        assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_status_counts_the_time_and_failures_of_trainings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall time excludes the start of Ray and changes of the clock; equally named trainings fail separately."""
    real_time, ready = time.time, []

    @contextmanager
    def slow_ray() -> Iterator[None]:
        time.sleep(0.1)
        ready.append(time.monotonic())
        yield

    def all_fail(waiting: Sequence[CellRun], *_: object) -> Iterator[tuple[CellRun, float, str]]:
        monkeypatch.setattr(time, "time", lambda: real_time() + 3600)
        yield from ((run, 1.0, "no memory") for run in waiting)

    updates: list[dict[str, object]] = []
    monkeypatch.setattr(cells, "ray_session", slow_ray)
    monkeypatch.setattr(cells, "capacity", lambda _: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr(cells, "_finished", all_fail)
    monkeypatch.setattr(cells.Progress, "update", lambda _, n=1, **values: updates.append(values))
    recipe = Recipe.load("icons")
    cell = grid.cells(recipe.study)[0]
    runs = [CellRun(cell, recipe, RunFolder(url, cell.name, "0")) for url in ("dtd/cell", "eurosat/cell")]
    ended, work = cells.run_cells(runs, recipe.study)
    assert [run.status for run in ended] == ["failed", "failed"]
    assert [update["failed"] for update in updates if "failed" in update] == [1, 2]
    assert work.failed == {"dtd/cell": "no memory", "eurosat/cell": "no memory"}
    assert 0 < work.wall_seconds <= time.monotonic() - ready[0] + 0.001


def test_worker_keeps_its_cache_between_trainings() -> None:
    assert cells._model_cache(1 << 20) is cells._model_cache(1 << 20)
