"""`syncclip submit` and `ray job submit` to a real head of this machine and a node that joined it: the same bytes,
nothing twice, stopped and resumed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from syncclip import jobs
from syncclip.cli import app
from syncclip.cli.submit import connect
from syncclip.recipe.recipe import Recipe
from syncclip.studies.cells import prepare, run_cell
from syncclip.studies.grid import cells
from syncclip.studies.run import study
from tests.conftest import TinyWorld
from tests.ray_head import PATIENCE, ray_head, suspended, suspended_until_two_run
from tests.test_ray_jobs import PROJECT, files
from tests.worlds.synthetic import generate_here

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("heads")]

SET = ("*.tar", "*.parquet", "plan.json")
RUN = ("prompts.safetensors", "metrics.jsonl", "results.json")
CELL = (*RUN, "predictions.parquet")
FINDINGS = ("fit.json", "comparisons.json", "shift.json", "features.parquet", "tables.md")
GRID = ("study.configurations=[{method: zeroshot}, {method: syncclip}]", "study.seeds=[1, 2]")
CELLS = 1 + 2 * 2
"""One of zero-shot, and one for each amount and seed."""


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of these tests asks for none."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status of a command, and all that it said."""
    capsys.readouterr()
    status = app.run([*arguments])
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


@pytest.fixture(scope="module")
def near(tiny: TinyWorld, tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in `run` and a study in `study`, done in this process, cell after cell."""
    folder = tmp_path_factory.mktemp("near")
    jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}"]), str(folder / "run"))
    recipe = Recipe.load(tiny.recipe, [*GRID, f"training.synthetic={tiny_set}"])
    for run in prepare(recipe, cells(recipe.study), str(folder / "study"), tiny_set):
        assert run_cell(run.spec)["error"] is None
    study(recipe, str(folder / "study"))
    return folder


def test_a_submitted_study_gives_the_local_bytes_and_uses_every_node(
    head: str, tiny: TinyWorld, tiny_set: str, near: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ended(head, "run_cell")
    place = ("--out", str(tmp_path), f"training.synthetic={tiny_set}")
    with suspended_until_two_run(head, "ray::run_cell"):
        status, log = told(capsys, "submit", "--address", head, "study", tiny.recipe, *GRID, *place)
    assert status == 0, log
    check_study(tmp_path, near / "study")
    wait_until(lambda: len(ended(head, "run_cell")) == len(before) + CELLS)
    assert len({node for task, node in ended(head, "run_cell").items() if task not in before}) == 2


def test_the_commands_of_the_readme_give_the_local_bytes(
    head: str, tiny: TinyWorld, tiny_set: str, near: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkout"  # without what makes the upload large
    for part in ("ray_jobs", "syncclip"):
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "icons"))
    (folder / "tiny.yaml").write_text(Recipe.load(tiny.recipe, GRID).to_yaml())
    ours = {
        "dataset.name=s3://bucket/birds ": "",  # nodes of this machine see its folders
        "http://HEAD:8265": head,
        "s3://bucket": str(tmp_path),
        "birds.yaml": "tiny.yaml",
        "synthesis.actors=64": "synthesis.actors=2",
    }
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for shown, meant in ours.items():
        assert shown in text
        text = text.replace(shown, meant)
    commands = re.findall(r"^ray job submit .*\\\n.*$", text, re.MULTILINE)
    assert re.findall(r"ray_jobs/(\w+)", " ".join(commands)) == ["synth", "train", "study"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**bare, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}

    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr

    assert files(tmp_path / "set", *SET) == files(tiny_set, *SET)
    assert files(tmp_path / "run", *RUN) == files(near / "run", *RUN)
    check_study(tmp_path / "study", near / "study")


def check_study(far: Path, near: Path) -> None:
    """Hold a cluster's study to the one that was run here."""
    names = sorted(path.name for path in (near / "cells").iterdir())
    assert len(names) == CELLS
    for name in names:
        here, there = (files(place / "cells" / name, *CELL) for place in (near, far))
        assert len(here) == len(CELL)
        assert there == here, name
    assert len(files(near, *FINDINGS)) == len(FINDINGS)
    assert files(far, *FINDINGS) == files(near, *FINDINGS)
    tables = [pd.read_parquet(place / "study.parquet").drop(columns="seconds") for place in (far, near)]
    pd.testing.assert_frame_equal(*tables)


def ended(head: str, name: str) -> dict[str, str]:
    """Id -> node of the tasks of this name that ended on a head; Ray tells them with some delay."""
    from ray.util.state import list_tasks

    tasks: list[Any] = list_tasks(
        address=head, filters=[("name", "=", name)], detail=True, limit=1000, timeout=int(PATIENCE)
    )
    return {task.task_id: task.node_id for task in tasks if task.state == "FINISHED"}


def test_a_job_that_fails_ends_with_its_reason_and_its_status(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--address", head, "--out", str(tmp_path / "none"))
    status, log = told(capsys, "submit", *out, "synth", tiny.recipe, "synthesis.num_gpus=1")

    assert status == 2
    sentence = "synthesis.num_gpus is 1, but the cluster has 0 GPUs and 2 CPUs"
    assert f"failed with exit status 2: {sentence}" in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.fault
def test_a_job_that_is_stopped_in_the_middle_goes_on_to_the_same_bytes_and_draws_nothing_twice(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = ("synthesis.images_per_class=16", "synthesis.generator.steps=12")
    near = generate_here(Recipe.load(tiny.recipe, slow), str(tmp_path / "near"))
    out = tmp_path / "set"
    submit = ("submit", "--address", head, "--out", str(out), "synth", tiny.recipe, *slow)
    status, log = told(capsys, *submit, "--no-wait")
    assert status == 0, log
    client: Any = connect(head)
    name = next(word for word in log.split() if word.startswith("syncclip-synth"))

    wait_until(lambda: len(committed(out)) > 0, pause=0.02)
    with suspended(head, "ray::MapWorker"):  # quick ones would have generated all before a busy head stops them
        client.stop_job(name)
        wait_until(lambda: client.get_job_status(name).is_terminal())
    before = committed(out)
    status, log = told(capsys, *submit)

    assert status == 0, log
    assert f"{name}-2 is submitted" in log
    after = committed(out)
    assert 0 < len(before) < len(after) == 16
    assert before.items() <= after.items()
    assert files(out, *SET) == files(near, *SET)

    status, log = told(capsys, *submit)
    assert status == 0, log
    assert f"{name}-3 is submitted" in log
    assert "exist already" in log
    assert committed(out) == after


def test_a_head_that_asks_for_a_token_takes_the_jobs_of_those_who_have_it(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    """As docs/clusters.md shows it: head, `ray job submit` and `syncclip submit` find the token where Ray puts it, and
    ours also that it is to be used."""
    folder = tmp_path / "checkout"
    for part in ("ray_jobs", "syncclip"):
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "icons"))
    (folder / "tiny.yaml").write_text(Recipe.load(tiny.recipe).to_yaml())
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    bare |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    known = {**bare, "RAY_AUTH_MODE": "token"}

    def typed(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
        )

    assert typed("ray get-auth-token --generate", known).returncode == 0
    token = (tmp_path / ".ray" / "auth_token").read_text()
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as head:
        ours = f"syncclip submit synth tiny.yaml --address {head.address} --shared --out {tmp_path}/ours"
        plain = f"ray job submit --address {head.address} --working-dir . -- python ray_jobs/synth.py tiny.yaml"
        stranger = typed(ours, {**bare, "HOME": str(tmp_path / "elsewhere")})
        assert stranger.returncode == 2
        assert re.fullmatch(
            r"syncclip: the cluster at \S+ requires a token; set RAY_AUTH_MODE=token, .*\n", stranger.stderr
        )
        for command, environment in ((ours, bare), (f"{plain} --out {tmp_path}/plain", known)):
            done = typed(command, environment)
            assert done.returncode == 0, done.stdout + done.stderr

    assert files(tmp_path / "ours", *SET) == files(tmp_path / "plain", *SET) == files(tiny_set, *SET)
