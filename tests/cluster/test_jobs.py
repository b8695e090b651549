"""`syncclip submit` and `ray job submit` to a head of two nodes: local bytes, errors, resumption, tokens."""

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
"""One zero-shot run, and one run for each number of images and seed."""


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared head requires no token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command in this process."""
    capsys.readouterr()
    status = app.run([*arguments])
    output = capsys.readouterr()
    return status, output.out + output.err


def run_shell(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def committed(folder: Path) -> dict[str, int]:
    """Name -> modification time of each committed shard; a regenerated shard has another time."""
    names = [path.name.replace("_stats.json", ".tar") for path in folder.glob("*_stats.json")]
    return {name: (folder / name).stat().st_mtime_ns for name in names}


def wait_until(condition: Callable[[], bool], pause: float = 0.2) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


@pytest.fixture(scope="module")
def near(tiny: TinyWorld, tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in `run` and a study in `study`, both run in this process."""
    folder = tmp_path_factory.mktemp("near")
    jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}"]), str(folder / "run"))
    recipe = Recipe.load(tiny.recipe, [*GRID, f"training.synthetic={tiny_set}"])
    for run in prepare(recipe, cells(recipe.study), str(folder / "study"), tiny_set):
        assert run_cell(run.spec)["error"] is None
    study(recipe, str(folder / "study"))
    return folder


@pytest.fixture
def checkout(tiny: TinyWorld, tmp_path: Path) -> Path:
    """A small working directory for `ray job submit`: scripts, package and a recipe."""
    folder = tmp_path / "checkout"
    for part in ("ray_jobs", "syncclip"):
        shutil.copytree(PROJECT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "icons"))
    (folder / "tiny.yaml").write_text(Recipe.load(tiny.recipe, GRID).to_yaml())
    return folder


@pytest.fixture
def environment() -> dict[str, str]:
    """Environment of a shell without variables of Ray."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return bare | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_a_submitted_study_equals_a_local_one_and_uses_every_node(
    head: str, tiny: TinyWorld, tiny_set: str, near: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished_tasks(head, "run_cell")
    options = ("--out", str(tmp_path), f"training.synthetic={tiny_set}")
    with suspended_until_two_run(head, "ray::run_cell"):
        status, log = run_command(capsys, "submit", "--address", head, "study", tiny.recipe, *GRID, *options)
    assert status == 0, log
    check_study(tmp_path, near / "study")
    wait_until(lambda: len(finished_tasks(head, "run_cell")) == len(before) + CELLS)
    assert len({node for task, node in finished_tasks(head, "run_cell").items() if task not in before}) == 2


@pytest.mark.nightly
def test_the_commands_in_the_readme_produce_the_local_bytes(
    head: str, checkout: Path, environment: dict[str, str], tiny_set: str, near: Path, tmp_path: Path
) -> None:
    replacements = {
        "dataset.name=s3://bucket/birds ": "",
        "http://HEAD:8265": head,
        "s3://bucket": str(tmp_path),
        "birds.yaml": "tiny.yaml",
        "synthesis.actors=64": "synthesis.actors=2",
    }
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for shown, replacement in replacements.items():
        assert shown in text
        text = text.replace(shown, replacement)
    commands = re.findall(r"^ray job submit .*\\\n.*$", text, re.MULTILINE)
    assert re.findall(r"ray_jobs/(\w+)", " ".join(commands)) == ["synth", "train", "study"]
    for command in commands:
        done = run_shell(command, checkout, environment | {"RAY_AUTH_MODE": "disabled"})
        assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path / "set", *SET) == files(tiny_set, *SET)
    assert files(tmp_path / "run", *RUN) == files(near / "run", *RUN)
    check_study(tmp_path / "study", near / "study")


def check_study(far: Path, near: Path) -> None:
    """Compare a cluster's study with the local one."""
    names = sorted(path.name for path in (near / "cells").iterdir())
    assert len(names) == CELLS
    for name in names:
        local, remote = (files(folder / "cells" / name, *CELL) for folder in (near, far))
        assert len(local) == len(CELL)
        assert remote == local, name
    assert len(files(near, *FINDINGS)) == len(FINDINGS)
    assert files(far, *FINDINGS) == files(near, *FINDINGS)
    tables = [pd.read_parquet(folder / "study.parquet").drop(columns="seconds") for folder in (far, near)]
    pd.testing.assert_frame_equal(*tables)


def finished_tasks(head: str, name: str) -> dict[str, str]:
    """ID -> node of a head's finished tasks of this name; Ray reports them with a delay."""
    from ray.util.state import list_tasks

    tasks: list[Any] = list_tasks(
        address=head, filters=[("name", "=", name)], detail=True, limit=1000, timeout=int(PATIENCE)
    )
    return {task.task_id: task.node_id for task in tasks if task.state == "FINISHED"}


def test_a_failed_job_ends_with_its_reason_and_exit_status(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--address", head, "--out", str(tmp_path / "none"))
    status, log = run_command(capsys, "submit", *out, "synth", tiny.recipe, "synthesis.num_gpus=1")
    assert status == 2
    error = "synthesis.num_gpus is 1, but the cluster has 0 GPUs and 2 CPUs"
    assert f"failed with exit status 2: {error}" in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.fault
def test_a_stopped_job_resumes_to_the_same_bytes_without_regenerating_a_shard(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = ("synthesis.images_per_class=10", "synthesis.generator.steps=12")
    near = generate_here(Recipe.load(tiny.recipe, slow), str(tmp_path / "near"))
    out = tmp_path / "set"
    submit = ("submit", "--address", head, "--out", str(out), "synth", tiny.recipe, *slow)
    status, log = run_command(capsys, *submit, "--no-wait")
    assert status == 0, log
    client: Any = connect(head)
    name = next(word for word in log.split() if word.startswith("syncclip-synth"))

    wait_until(lambda: len(committed(out)) > 0, pause=0.02)
    with suspended(head, "ray::MapWorker"):  # otherwise the job could finish before a busy head stops it
        client.stop_job(name)
        wait_until(lambda: client.get_job_status(name).is_terminal())
    before = committed(out)
    status, log = run_command(capsys, *submit)

    assert status == 0, log
    assert f"{name}-2 is submitted" in log
    after = committed(out)
    assert 0 < len(before) < len(after) == 10
    assert before.items() <= after.items()
    assert files(out, *SET) == files(near, *SET)


@pytest.mark.nightly
def test_a_head_with_a_token_accepts_jobs_of_its_owner_only(
    checkout: Path, environment: dict[str, str], tiny_set: str, tmp_path: Path
) -> None:
    """As in docs/clusters.md; `syncclip submit` needs no RAY_AUTH_MODE if Ray's token file exists."""
    environment = environment | {"HOME": str(tmp_path)}
    with_token = environment | {"RAY_AUTH_MODE": "token"}
    assert run_shell("ray get-auth-token --generate", checkout, with_token).returncode == 0
    token = (tmp_path / ".ray" / "auth_token").read_text()
    with ray_head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token) as head:
        ours = f"syncclip submit synth tiny.yaml --address {head.address} --shared --out {tmp_path}/ours"
        plain = f"ray job submit --address {head.address} --working-dir . -- python ray_jobs/synth.py tiny.yaml"
        other = run_shell(ours, checkout, environment | {"HOME": str(tmp_path / "elsewhere")})
        assert other.returncode == 2 and other.stderr.count("\n") == 1 and "requires a token" in other.stderr
        for command, variables in ((ours, environment), (f"{plain} --out {tmp_path}/plain", with_token)):
            done = run_shell(command, checkout, variables)
            assert done.returncode == 0, done.stdout + done.stderr
    assert files(tmp_path / "ours", *SET) == files(tmp_path / "plain", *SET) == files(tiny_set, *SET)
