"""`ray job submit` of the scripts in ray_jobs/ against a head of its own; `tests/cluster/test_jobs.py` types what the
README shows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TinyWorld
from tests.ray_head import PATIENCE
from tests.worlds.literature import Miniatures

PROJECT = Path(__file__).parents[1]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("heads")]


def submit(head: str, *arguments: str) -> tuple[int | None, str]:
    """Run a script of ray_jobs/ as a job; returns the exit status of its driver and its log."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head)
    # The tiny worlds lie elsewhere: leaving the embedded one out keeps the upload small.
    environment = {"working_dir": str(PROJECT), "excludes": ["/syncclip/embedded/icons", "/docs", "/tests", "/runs"]}
    job = client.submit_job(entrypoint=f"python ray_jobs/{' '.join(arguments)}", runtime_env=environment)
    deadline = time.monotonic() + PATIENCE
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)
        time.sleep(0.2)
    return client.get_job_info(job).driver_exit_code, client.get_job_logs(job)


def files(folder: str | Path, *patterns: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in patterns for path in sorted(Path(folder).glob(pattern))}


@pytest.mark.parametrize("by", ["script", "command"])
def test_a_submitted_protocol_leaves_its_tables(
    head: str, tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    from syncclip.cli import app

    protocol = ["base-to-novel", "--root", str(miniatures.root), "--dataset", "dtd", "--method", "zeroshot"]
    tiny_models = [f"backbone.name={tiny.backbone}", "backbone.pretrained=null", "backbone.precision=fp32"]
    here = ["study.cpus=1", "study.gpus=0"]
    arguments = [*protocol, "--out", str(tmp_path), *tiny_models, *here]
    if by == "script":
        status, log = submit(head, "reproduce.py", *arguments)
    else:
        status, log = app.run(["submit", "reproduce", "--address", head, *arguments]), capsys.readouterr().out
    assert status == 0, log
    assert f"report: {tmp_path}/base-to-novel.html" in log
    assert list(pd.read_parquet(tmp_path / "base-to-novel.parquet")["status"]) == ["done"]


@pytest.mark.parametrize("by", ["script", "command"])
def test_a_submitted_classification_leaves_a_table_beside_each_shard(
    head: str, tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    from syncclip import jobs
    from syncclip.cli import app
    from syncclip.recipe.recipe import Recipe

    run = jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot"]), str(tmp_path / "run")).url
    shards = [path.stem for path in Path(tiny_set).glob("*.tar")]
    options = "--actors", "1", "--out", str(tmp_path / "out")
    if by == "script":
        status, log = submit(head, "classify.py", run, tiny_set, *options)
    else:
        typed = ["submit", "classify", "--address", head, run, tiny_set, *options]
        status, log = app.run(typed), capsys.readouterr().out
    assert status == 0, log
    assert sorted(files(tmp_path / "out", "*.parquet")) == sorted(f"{shard}_predictions.parquet" for shard in shards)


def test_a_mistake_in_a_submitted_job_is_one_sentence_and_status_two(head: str, tiny: TinyWorld) -> None:
    status, log = submit(head, "synth.py", tiny.recipe, "--out", "relative/folder")
    assert status == 2
    assert "is a relative path, which a submitted job" in log
    assert "Traceback" not in log


def test_a_script_without_a_cluster_is_the_local_command(tiny: TinyWorld, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "ray_jobs/train.py", tiny.recipe, "--out", str(tmp_path)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "first run `syncclip synth" in done.stderr
