"""TensorBoard, a real MLflow server, W&B offline, and unavailable servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from syncclip import storage
from syncclip.core.text import install_command
from syncclip.training import loop, trackers
from tests.ray_head import free_ports
from tests.training import fakes

TIMEOUT_SECONDS = 600.0
"""Timeout of servers and libraries, which start slowly on a busy machine."""


def train(folder: Path, **settings: Any) -> list[str]:
    """The notes of a short training."""
    return loop.run(fakes.job(folder, **settings)).notes


def test_tensorboard_events_are_written_to_the_run_folder(tmp_path: Path) -> None:
    assert train(tmp_path / "with", trackers=["tensorboard"]) == []
    assert [path.name.split(".")[0] for path in (tmp_path / "with").glob("events*")] == ["events"]
    train(tmp_path / "without", trackers=[])
    assert not list((tmp_path / "without").glob("events*"))


def test_tensorboard_events_are_copied_to_a_remote_folder() -> None:
    events = trackers.TensorBoard("memory://events-test", 0)
    events.write(1, {"loss/total": 1.0})
    events.close(finished=True)
    assert [name.split(".")[0] for name in storage.listdir("memory://events-test")] == ["events"]
    fsspec.filesystem("memory").rm("/events-test", recursive=True)


def test_unavailable_server_is_reported_once_and_changes_no_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(tmp_path / "reference")
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    (note,) = train(tmp_path / "run", trackers=["tensorboard", "mlflow"], mlflow_uri=url)
    assert note.startswith("mlflow can't be reached")
    assert capsys.readouterr().err.count("mlflow can't be reached") == 1
    assert fakes.bits(tmp_path / "run") == fakes.bits(tmp_path / "reference")


@pytest.mark.parametrize(("trained_with", "warnings"), [(["mlflow"], 0), ([], 1)])
def test_results_repeat_no_warning_of_the_training(tmp_path: Path, trained_with: list[str], warnings: int) -> None:
    invalid = {"mlflow_uri": "nothing://there"}
    train(tmp_path, trackers=trained_with, **invalid)
    job = fakes.job(tmp_path, trackers=["mlflow"], **invalid)
    messages: list[str] = []
    trackers.show_results(job.run, job.settings, {"split": "test", "hm": 61.5, "baselines": {}}, messages.append)
    assert [message.startswith("mlflow can't be reached") for message in messages] == [True] * warnings


def test_missing_uri_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "training.mlflow_uri or MLFLOW_TRACKING_URI" in train(tmp_path, trackers=["mlflow"])[0]


def test_missing_library_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert install_command("tracking") in train(tmp_path, trackers=["wandb"])[0]


class FailingTracker:
    """A tracker whose server becomes unavailable after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def write(self, step: int, values: object) -> None:
        if step > self.steps:
            raise ConnectionError("unavailable")

    def sync(self) -> None: ...

    def close(self, finished: bool) -> None: ...


def test_server_that_becomes_unavailable_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "Mlflow", lambda run, settings: FailingTracker(4))
    assert train(tmp_path, trackers=["mlflow"]) == [
        "mlflow can't be reached (unavailable); the run continues without it, and metrics.jsonl contains all values"
    ]


@pytest.mark.slow
@pytest.mark.nightly
def test_wandb_offline_writes_to_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers, "TIMEOUT_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", str(TIMEOUT_SECONDS))
    import wandb

    assert train(tmp_path, trackers=["wandb"]) == []
    wandb.teardown()  # as at exit: the W&B process writes for a moment after the end of a run
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = written.read_bytes()
    assert b"loss/total" in data and b"speed/real_images_per_s" in data


@pytest.fixture(params=["database", pytest.param("server", marks=pytest.mark.nightly)])
def mlflow_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database of MLflow, or a server with one."""
    if request.param == "database":
        monkeypatch.chdir(tmp_path)  # MLflow creates a folder for artifacts
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{tmp_path}/mlflow.db", f"--default-artifact-root={tmp_path}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path, env=environment
        )
        try:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not is_healthy(f"{url}/health"):
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.5)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_mlflow_run_is_continued_after_a_restart_and_by_the_results(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(TIMEOUT_SECONDS)))
    settings = {"trackers": ["mlflow"], "mlflow_uri": mlflow_uri, "tracking_project": "shapes"}
    job = fakes.job(tmp_path / "run", **settings)
    job.method.poisoned_step = 8
    with pytest.raises(loop.DivergedError):
        loop.run(job)
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("shapes")
    (failed,) = client.search_runs([experiment.experiment_id])
    assert (failed.info.status, failed.data.metrics["rate"] > 0) == ("FAILED", True)

    train(tmp_path / "run", **settings)
    results = {"split": "test", "hm": 61.5, "per_class": [], "baselines": {"chance": {"hm": 5.0, "novel": None}}}
    trackers.show_results(job.run, job.settings, results, print)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status, run.info.run_name) == (failed.info.run_id, "FINISHED", "fake")
    assert run.data.params["method"] == job.settings.method
    assert run.data.metrics["test/hm"] == 61.5 and run.data.metrics["test/chance_hm"] == 5
    steps = {metric.step for metric in client.get_metric_history(run.info.run_id, "loss/total")}
    assert steps == set(range(1, 21))
