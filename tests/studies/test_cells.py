"""How many cells there is room for, and what a process keeps from one to the next."""

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
    there = {"CPU": 16.0, "GPU": 2.0}
    monkeypatch.setattr(cells, "capacity", lambda _: dict(there))
    return there


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"),
    [(1, 0, 16), (4, 0, 4), (0.5, 0, 32), (1, 1, 2), (1, 0.25, 8), (4, 0.25, 4), (1, 0.001, 16), (0.01, 0, 256)],
)
def test_the_scarcer_of_cores_and_shares_of_gpus_bounds_the_cells(
    cluster: dict[str, float], cpus: float, gpus: float, room: int
) -> None:
    assert cells._slots(StudySettings(cpus=cpus, gpus=gpus), {}, first=True) == room


def test_room_follows_the_machines_and_never_ends(cluster: dict[str, float]) -> None:
    settings = StudySettings(cpus=4, gpus=0.5)
    assert cells._slots(settings, {}, first=True) == 4
    cluster.update(CPU=32.0, GPU=4.0)
    assert cells._slots(settings, {}) == 8
    cluster.update(CPU=2.0, GPU=0.0)  # what is given out waits for the machine to come back
    assert cells._slots(settings, {}) == 1


def test_a_cell_that_no_machine_could_hold_is_refused_at_the_start(cluster: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"study\.gpus is 3, but the cluster has 2 GPUs"):
        cells._slots(StudySettings(gpus=3), {}, first=True)


def test_a_set_is_read_once_however_many_cells_learn_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = study_world(tmp_path)
    synthetic = make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    looked: list[str] = []

    def counted(url: str) -> Path:
        looked.append(url)
        return urls.local_path(url)

    def looks(*values: str) -> tuple[int, int]:
        recipe = study_recipe(root, f"training.synthetic={synthetic}", *values)
        looked.clear()
        runs = cells.prepare(recipe, grid.cells(recipe.study), str(root / "study"), synthetic)
        return len(runs), sum(url.startswith(synthetic) for url in looked)

    monkeypatch.setattr(files, "local_path", counted)
    few, many = looks("study.images_per_class=[4]", "study.seeds=[1]"), looks("study.seeds=[1,2,3,4,5,6]")
    assert many[0] > 5 * few[0]
    assert many[1] == few[1] > 0


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ("{method: ivp}", "training.method: there is no method 'ivp'; did you mean 'ivlp'?"),
        ("{method: ivlp, overrides: {training.epoch: 3}}", "training.epoch: no such key; did you mean 'epochs'?"),
        ("{method: ivlp, overrides: {dataset.shot: 3}}", "dataset.shot: no such key; did you mean 'shots'?"),
        ("{method: ivlp, images_per_class: [3]}", "images_per_class is [3]; none of them is among"),
        ("{method: ivlp, search_space: {training.epochs: [1, 0]}}", "training.epochs: 0 is not allowed; it must be at"),
    ],
)
def test_a_configuration_that_no_cell_could_have_is_refused_before_anything_is_generated(
    configuration: str, reason: str, tmp_path: Path
) -> None:
    recipe = Recipe.load(
        "icons", [f"study.configurations=[{{method: coop, search_space: {{training.seed: [1]}}}}, {configuration}]"]
    )
    for run in (study, tune):
        with pytest.raises(UserError) as error:
            run(recipe, str(tmp_path))
        assert str(error.value).startswith(
            f"recipe 'icons': study.configurations[1] '{recipe.study.configurations[1].name}': "
        )
        assert reason in str(error.value)
    assert not list(tmp_path.iterdir())


def test_wall_time_and_failures_are_those_of_the_cells_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the time that Ray takes to start counts, nor that of a clock that is set; namesakes fail each."""
    honest, up = time.time, []

    @contextmanager
    def slow_ray() -> Iterator[None]:
        time.sleep(0.1)
        up.append(time.monotonic())
        yield

    def all_fail(waiting: Sequence[CellRun], *_: object) -> Iterator[tuple[CellRun, float, str]]:
        monkeypatch.setattr(time, "time", lambda: honest() + 3600)
        yield from ((run, 1.0, "no room") for run in waiting)

    facts: list[dict[str, object]] = []
    monkeypatch.setattr(cells, "ray_session", slow_ray)
    monkeypatch.setattr(cells, "capacity", lambda _: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr(cells, "_finished", all_fail)
    monkeypatch.setattr(cells.Progress, "update", lambda _, n=1, **given: facts.append(given))
    recipe = Recipe.load("icons")
    cell = grid.cells(recipe.study)[0]
    runs = [CellRun(cell, recipe, RunFolder(url, cell.name, "0")) for url in ("dtd/cell", "eurosat/cell")]
    ended, work = cells.run_cells(runs, recipe.study)
    assert [run.status for run in ended] == ["failed", "failed"]
    assert [one["failed"] for one in facts if "failed" in one] == [1, 2]
    assert work.failed == {"dtd/cell": "no room", "eurosat/cell": "no room"}
    assert 0 < work.wall_seconds <= time.monotonic() - up[0] + 0.001


def test_a_process_keeps_its_frozen_parts_from_cell_to_cell() -> None:
    assert cells._model_cache(1 << 20) is cells._model_cache(1 << 20)
