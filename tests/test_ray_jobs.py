"""`ray job submit` of the scripts in ray_jobs/, and `syncclip submit`; see also `tests/cluster/test_jobs.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from syncclip import jobs
from syncclip.cli import app
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld
from tests.ray_head import PATIENCE
from tests.worlds.literature import Miniatures

PROJECT = Path(__file__).parents[1]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("heads")]


def submit(head: str, *arguments: str) -> tuple[int | None, str]:
    """Run a script of ray_jobs/ as a job; returns the exit status of its driver and its log."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head)
    # Tests use other models, so the upload omits the embedded ones.
    environment = {"working_dir": str(PROJECT), "excludes": ["/syncclip/embedded/icons", "/docs", "/tests", "/runs"]}
    job = client.submit_job(entrypoint=f"python ray_jobs/{' '.join(arguments)}", runtime_env=environment)
    deadline = time.monotonic() + PATIENCE
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)
        time.sleep(0.2)
    return client.get_job_info(job).driver_exit_code, client.get_job_logs(job)


def files(folder: str | Path, *patterns: str) -> dict[str, bytes]:
    """Name -> content of the files that match a pattern."""
    return {path.name: path.read_bytes() for pattern in patterns for path in sorted(Path(folder).glob(pattern))}


def test_a_submitted_protocol_writes_its_tables(
    head: str, tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = ["base-to-novel", "--root", str(miniatures.root), "--dataset", "dtd", "--method", "zeroshot"]
    models = [f"backbone.name={tiny.backbone}", "backbone.pretrained=null", "backbone.precision=fp32"]
    arguments = [*protocol, "--out", str(tmp_path), *models, "study.cpus=1", "study.gpus=0"]
    assert app.run(["submit", "reproduce", "--address", head, *arguments]) == 0
    assert f"report: {tmp_path}/base-to-novel.html" in capsys.readouterr().out
    assert list(pd.read_parquet(tmp_path / "base-to-novel.parquet")["status"]) == ["done"]


def test_a_submitted_classification_writes_a_table_per_shard(
    head: str, tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    run = jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot"]), str(tmp_path / "run")).url
    shards = [path.stem for path in Path(tiny_set).glob("*.tar")]
    status, log = submit(head, "classify.py", run, tiny_set, "--actors", "1", "--out", str(tmp_path / "out"))
    assert status == 0, log
    assert sorted(files(tmp_path / "out", "*.parquet")) == sorted(f"{shard}_predictions.parquet" for shard in shards)


def test_a_user_error_in_a_submitted_job_is_one_line_and_status_two(head: str, tiny: TinyWorld) -> None:
    status, log = submit(head, "synth.py", tiny.recipe, "--out", "relative/folder")
    assert status == 2
    assert "is a relative path, which a submitted job" in log
    assert "Traceback" not in log


def test_a_script_without_a_cluster_is_the_local_command(tiny: TinyWorld, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "ray_jobs/train.py", tiny.recipe, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert "first run `syncclip synth" in done.stderr
