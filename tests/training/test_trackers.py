"""Numbers of a run in TensorBoard, on a real MLflow server, in offline W&B; and what an absent server costs."""

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
from syncclip.training.settings import TrainingSettings
from tests.ray_head import free_ports
from tests.training import fakes

PATIENCE = 600.0
"""Seconds after which a server or a library hangs; on a busy machine each takes long to start."""


def train(folder: Path, **settings: Any) -> list[str]:
    """A short training; its notes."""
    return loop.run(fakes.job(folder, **settings)).notes


def test_the_default_needs_no_library() -> None:
    assert TrainingSettings().trackers == ()


def test_tensorboards_events_are_beside_the_metrics(tmp_path: Path) -> None:
    assert train(tmp_path, trackers=["tensorboard"]) == []
    assert [path.name.split(".")[0] for path in tmp_path.glob("events*")] == ["events"]


def test_without_trackers_there_are_the_metrics_alone(tmp_path: Path) -> None:
    train(tmp_path / "run", trackers=[])
    assert not list((tmp_path / "run").glob("events*")) and (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_absent_server_is_told_once_and_changes_no_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(tmp_path / "quiet")
    notes = train(
        tmp_path / "run", trackers=["tensorboard", "mlflow"], mlflow_uri=f"http://127.0.0.1:{free_ports(1)[0]}"
    )
    assert len(notes) == 1 and notes[0].startswith("mlflow can't be reached")
    assert capsys.readouterr().err.count("mlflow can't be reached") == 1
    assert fakes.bits(tmp_path / "run") == fakes.bits(tmp_path / "quiet")


def test_what_a_training_told_is_not_told_again_with_its_results(tmp_path: Path) -> None:
    absent = {"trackers": ["mlflow"], "mlflow_uri": "nothing://there"}
    told: list[str] = []
    for name, said in (("with", 0), ("without", 1)):
        job = fakes.job(tmp_path / name, **absent)
        loop.run(job if name == "with" else fakes.job(tmp_path / name, trackers=[]))
        trackers.show_results(job.run, job.settings, {"split": "test", "hm": 61.5}, told.append)
        assert len(told) == said
    assert told[0].startswith("mlflow can't be reached")


def test_a_server_without_an_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "training.mlflow_uri or MLFLOW_TRACKING_URI" in train(tmp_path, trackers=["mlflow"])[0]


class Dying:
    """A tracker whose server goes away after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left, self.closed = steps, False

    def write(self, step: int, values: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("gone away")

    def sync(self) -> None: ...

    def close(self, finished: bool) -> None:
        self.closed = True


def test_a_server_that_goes_away_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "Mlflow", lambda run, settings: Dying(4))
    assert train(tmp_path, trackers=["mlflow"]) == [
        "mlflow can't be reached (gone away); the run continues without it, metrics.jsonl has its numbers"
    ]


def test_a_library_that_is_missing_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert install_command("tracking") in train(tmp_path, trackers=["wandb"])[0]


@pytest.mark.slow
def test_wandb_offline_leaves_its_run_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers, "PATIENCE", PATIENCE)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", str(PATIENCE))
    import wandb

    assert train(tmp_path, trackers=["wandb"]) == []
    wandb.teardown()  # as the end of a process does: W&B's own process writes on for a moment after a run's end
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = written.read_bytes()
    assert b"loss/total" in data and b"speed/real_images_per_s" in data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with a database of its own, and without the processes that run its jobs."""
    folder, (port,) = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--default-artifact-root={folder}/artifacts"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder, env=environment)
        try:
            deadline = time.monotonic() + PATIENCE
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_mlflow_shows_losses_and_results_in_one_run_also_after_a_restart(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(PATIENCE)))
    settings = {"trackers": ["mlflow"], "mlflow_uri": server, "tracking_project": "shapes"}
    job = fakes.job(tmp_path, **settings)
    job.method.poisoned_step = 8
    with pytest.raises(loop.DivergedError):
        loop.run(job)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("shapes")
    (broken,) = client.search_runs([experiment.experiment_id])
    assert (broken.info.status, broken.data.metrics["rate"] > 0) == ("FAILED", True)

    train(tmp_path, **settings)
    trackers.show_results(job.run, job.settings, {"split": "test", "hm": 61.5, "per_class": []}, print)
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status, run.info.run_name) == (broken.info.run_id, "FINISHED", "fake")
    assert run.data.params["method"] == job.settings.method
    assert run.data.metrics["test/hm"] == 61.5
    steps = {one.step for one in client.get_metric_history(run.info.run_id, "loss/total")}
    assert steps == set(range(1, 21))


def test_events_reach_a_remote_folder() -> None:
    events = trackers.TensorBoard("memory://events-test", 0)
    events.write(1, {"loss/total": 1.0})
    events.close(finished=True)
    assert [name.split(".")[0] for name in storage.listdir("memory://events-test")] == ["events"]
    fsspec.filesystem("memory").rm("/events-test", recursive=True)
