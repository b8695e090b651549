"""`syncclip submit` to a real head of this machine and a node that joined it: the same bytes, nothing twice, stopped
and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from syncclip import cli, jobs, submission
from syncclip.recipe import Recipe
from syncclip.study.cells import prepare, run_cell
from syncclip.study.grid import cells
from syncclip.study.run import study
from tests.conftest import TinyWorld
from tests.ray_head import PATIENCE, SMALL, ray_head
from tests.test_ray_jobs import files
from tests.worlds.synthetic import draw_here

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SET = ("*.tar", "*.parquet", "plan.json")
RUN = ("prompts.safetensors", "metrics.jsonl", "results.json")
CELL = (*RUN, "predictions.parquet")
FINDINGS = ("fit.json", "comparisons.json", "shift.json", "features.parquet", "tables.md")
GRID = ("study.arms=[{method: zeroshot}, {method: syncclip}]",)
"""Three cells: zero-shot, and one for each amount."""


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster of two nodes, each with one CPU."""
    with ray_head("--num-cpus=1") as one:
        one.join("--num-cpus=1", SMALL)
        yield one.address


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of these tests asks for none."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status of a command, and all that it said."""
    capsys.readouterr()
    status = cli.run([*arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


def committed(folder: Path) -> dict[str, int]:
    """Name -> time of writing of each committed shard: drawn again, it would be another."""
    names = [path.name.replace("_stats.json", ".tar") for path in folder.glob("*_stats.json")]
    return {name: (folder / name).stat().st_mtime_ns for name in names}


def wait_until(there: Callable[[], bool], pause: float = 0.2) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(pause)


def test_synth_train_and_study_give_the_local_bytes_and_twice_draws_nothing_twice(
    head: str, tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    submit = ("submit", "--address", head, "--out", str(far))

    status, log = told(capsys, *submit, "synth", tiny.recipe, "synthesis.actors=2")
    assert status == 0, log
    assert files(far, *SET) == files(tiny_set, *SET)

    before = committed(far)
    status, log = told(capsys, *submit, "synth", tiny.recipe, "synthesis.actors=2")
    assert status == 0, log
    assert "-2 is submitted" in log
    assert "are there already" in log
    assert committed(far) == before

    status, log = told(capsys, *submit, "train", tiny.recipe)
    assert status == 0, log
    jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}"]), str(near))
    assert files(far, *RUN) == files(near, *RUN)

    place = ("--out", str(tmp_path / "study"), f"training.synthetic={far}")
    status, log = told(capsys, "submit", "--address", head, "study", tiny.recipe, *GRID, *place)
    assert status == 0, log
    same_study(tmp_path / "study", Recipe.load(tiny.recipe, [*GRID, f"training.synthetic={tiny_set}"]), near / "study")
    assert len(nodes_of(head, "run_cell")) == 2


def same_study(far: Path, recipe: Recipe, near: Path) -> None:
    """Run a study here, cell after cell in this process, and hold that of the cluster to it."""
    runs = prepare(recipe, cells(recipe.study), str(near), recipe.training.synthetic)
    assert len(runs) == 3
    for run in runs:
        assert run_cell({"recipe": run.recipe.model_dump(mode="json"), "url": run.url})["error"] is None
        here, there = (files(place / "cells" / run.cell.name, *CELL) for place in (near, far))
        assert len(here) == len(CELL)
        assert there == here, run.cell.name
    study(recipe, str(near))
    assert len(files(near, *FINDINGS)) == len(FINDINGS)
    assert files(far, *FINDINGS) == files(near, *FINDINGS)
    tables = [pd.read_parquet(place / "study.parquet").drop(columns="seconds") for place in (far, near)]
    pd.testing.assert_frame_equal(*tables)


def nodes_of(head: str, name: str) -> set[str]:
    """Ids of the nodes on which tasks of this name ended; Ray tells them with some delay."""
    from ray.util.state import list_tasks

    def ended() -> list[Any]:
        tasks = list_tasks(address=head, filters=[("name", "=", name)], detail=True, timeout=int(PATIENCE))
        return [task for task in tasks if task.state == "FINISHED"]

    wait_until(lambda: len(ended()) == 3)
    return {task.node_id for task in ended()}


def test_a_job_that_fails_ends_with_its_reason_and_its_status(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, log = told(capsys, "submit", "--address", head, "--out", str(tmp_path / "none"), "train", tiny.recipe)

    assert status == 2
    assert "failed with exit status 2: there is no synthetic set in" in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.fault
def test_a_job_that_is_stopped_in_the_middle_goes_on_to_the_same_bytes(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = ("synthesis.images_per_class=16", "synthesis.generator.steps=6")
    near = draw_here(Recipe.load(tiny.recipe, slow), str(tmp_path / "near"))
    out = tmp_path / "set"
    submit = ("submit", "--address", head, "--out", str(out), "synth", tiny.recipe, *slow)
    status, log = told(capsys, *submit, "--no-wait")
    assert status == 0, log
    client: Any = submission.connect(head)
    name = next(word for word in log.split() if word.startswith("syncclip-synth"))

    wait_until(lambda: len(committed(out)) > 0, pause=0.02)
    client.stop_job(name)
    wait_until(lambda: client.get_job_status(name).is_terminal())
    before = committed(out)
    status, log = told(capsys, *submit)

    assert status == 0, log
    assert f"{name}-2 is submitted" in log
    assert 0 < len(before) < len(committed(out)) == 16
    assert before.items() <= committed(out).items()
    assert files(out, *SET) == files(near, *SET)
