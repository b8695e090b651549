from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.trust import trust
from syncclip.training import checkpoints, ray_train
from syncclip.training.checkpoints import Checkpoint
from syncclip.training.loop import run
from syncclip.training.ray_train import train_on_ray
from syncclip.training.run_folder import RunRecord
from syncclip.training.status import STATUS, TrainingStatus, status_lines
from tests.object_store import faulty_bucket
from tests.training import fakes

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def train(folder: Path | str, workers: int = 1, **spec: Any) -> RunRecord:
    changes = {"workers": workers, **spec.pop("settings", {})}
    complete = {"url": str(folder), "settings": changes, **spec}
    return train_on_ray(fakes.build, complete, fakes.folder(folder), fakes.settings(**changes))


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A run of two workers, without noise, since each would draw its own."""
    folder = tmp_path_factory.mktemp("two") / "run"
    assert train(folder, workers=2, noise=0.0).workers == 2
    return folder


def test_two_workers_have_the_curve_of_one(tmp_path: Path, two_workers: Path) -> None:
    run(fakes.job(tmp_path, noise=0.0))
    one, two = (safetensors.torch.load_file(folder / "prompts.safetensors") for folder in (tmp_path, two_workers))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    assert curve(tmp_path) == pytest.approx(curve(two_workers), abs=1e-5)
    status = storage.read_document(str(two_workers / STATUS), TrainingStatus, "")
    assert status is not None
    assert status.state == "complete" and status.steps == status.total_steps > 0


@pytest.mark.fault
def test_run_on_s3_survives_a_killed_worker_and_a_truncated_checkpoint(tmp_path: Path, two_workers: Path) -> None:
    """The checkpoint of step 9 is truncated, then a worker is killed, while some requests to the store fail."""
    with faulty_bucket("runs") as (bucket, proxy):
        store = {"endpoint_url": proxy.endpoint, "key": "test", "secret": "test"}  # workers have another environment
        spec = {"storage": store, "mark": str(tmp_path / "killed"), "kill_once_at": 10, "kill_rank": 1}
        proxy.spoil_some(0.05, ("503", "reset", "reset answer"), seed=1)
        damaged, resumed = train(f"{bucket}/runs/run", workers=2, noise=0.0, truncates=True, **spec).notes
        assert sum(proxy.spoilt.values()) > 0
        proxy.soothe()
        assert (tmp_path / "killed").exists()
        assert damaged.startswith(f"checkpoint {bucket}/runs/run/checkpoints/step-00000009.safetensors is damaged")
        assert resumed == "run 'fake' resumes after step 6 of 20"
        assert fakes.bits(f"{bucket}/runs/run") == fakes.bits(two_workers)
        assert any(name.startswith("events") for name in storage.listdir(f"{bucket}/runs/run"))


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.training.test_ray_train import train
train(Path(sys.argv[1]), workers=2, noise=0.0, pause_at=14)
"""


@pytest.mark.nightly
@pytest.mark.fault
def test_killed_job_resumes_with_the_same_or_another_number_of_workers(tmp_path: Path, two_workers: Path) -> None:
    """Driver, Ray and workers are killed in step 15, after the checkpoint of step 12, which is truncated."""
    folder, single, log = tmp_path / "run", tmp_path / "single", tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", DRIVER, str(folder), str(Path(__file__).parents[2])]
    with log.open("wb") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as driver:
        deadline = time.monotonic() + 900
        while not list((folder / "checkpoints").glob("step-*12.json")):
            assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    psutil.wait_procs(family, timeout=60)
    assert driver.returncode == -signal.SIGKILL and not (folder / "prompts.safetensors").exists()

    fakes.truncate_newest(str(folder))
    subprocess.run(["cp", "-r", str(folder), str(single)], check=True)
    damaged, resumed = train(folder, workers=2, noise=0.0).notes
    assert "step-00000012.safetensors is damaged" in damaged
    assert resumed == "run 'fake' resumes after step 9 of 20"
    assert fakes.bits(folder) == fakes.bits(two_workers)

    assert run(fakes.job(single, noise=0.0)).notes[-1].startswith("the checkpoint was written by 2 workers")
    assert curve(single) == pytest.approx(curve(two_workers), abs=1e-5)


@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_lost_worker_is_replaced_at_most_max_failures_times(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^worker 0: its process or machine was lost; no restarts are left"):
        train(tmp_path / "run", settings={"max_failures": 0}, kill_once_at=10)
    assert (tmp_path / "run.killed").exists()
    assert run(fakes.job(tmp_path / "run")).notes == ["run 'fake' resumes after step 9 of 20"]


@pytest.mark.parametrize(
    ("workers", "selector", "message"),
    [
        (3, {}, ""),
        (4, {}, "room for 3 of 4 workers;"),
        ((3, 8), {}, ""),
        ((4, 8), {}, "room for 3 of 4"),
        (2, {"ray.io/market-type": "!spot"}, ""),
        (2, {"ray.io/market-type": "spot"}, "room for 1 of 2 workers on nodes with ray.io/market-type=spot"),
        (2, {"market": "!spot", "zone": "a"}, "0 of 2 workers on nodes with market!=spot, zone=a"),
    ],
)
def test_lack_of_resources_is_described(
    workers: int | tuple[int, int], selector: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three nodes, each with resources for one worker."""
    labels: list[dict[str, str]] = [{}, {"ray.io/market-type": "on-demand"}, {"ray.io/market-type": "spot"}]
    resources = {"CPU": 3.0, "GPU": 1.0}
    nodes = [{"Alive": True, "Labels": node_labels, "Resources": resources} for node_labels in labels]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.util.placement_group_table", dict)
    required = {"CPU": 2, "GPU": 1}
    scaling = SimpleNamespace(num_workers=workers, resources_per_worker=required, label_selector=selector)
    lack = ray_train._lack(scaling)
    assert message in lack and bool(lack) == bool(message)


@pytest.mark.usefixtures("ray_cluster")
def test_training_reports_that_others_use_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    other, messages = ray.remote(num_cpus=4)(Other).remote(), []
    ray.get(other.ready.remote())

    def print_message(message: str) -> None:
        messages.append(message)
        if "other jobs" in message:
            ray.kill(other)

    monkeypatch.setattr(ray_train, "print_message", print_message)
    monkeypatch.setattr(ray_train, "CHECK_SECONDS", 1.0)
    assert train(tmp_path, workers=2).status == "finished"
    assert messages == [
        "train: syncclip, 4 epochs on 2 workers",
        "other jobs are using the cluster; training is waiting for resources for 2 workers",
    ]


class Other:
    """An actor that reserves the whole cluster."""

    def ready(self) -> bool:
        return True


def never(*_: Any) -> Any:
    """Build function of a training that must not start."""
    raise AssertionError


def test_checkpoint_of_another_recipe_is_an_error(tmp_path: Path) -> None:
    checkpoints.write(str(tmp_path / "checkpoints"), Checkpoint(3, {}), "b" * 64, keep=2)
    with pytest.raises(UserError, match="belongs to recipe bbbbbbbbbbbb, not to aaaaaaaaaaaa"):
        train_on_ray(never, {}, fakes.folder(tmp_path), fakes.settings())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_finished_run_and_changed_recipe_need_no_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(fakes.job(tmp_path))
    assert train_on_ray(never, {}, fakes.folder(tmp_path), fakes.settings()).status == "finished"
    assert "is already finished" in capsys.readouterr().err
    with pytest.raises(UserError, match="of recipe aaaaaaaaaaaa, but this is run 'fake' of recipe bbbbbbbbbbbb"):
        train_on_ray(never, {}, fakes.folder(tmp_path, "b" * 64), fakes.settings())


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"workers is 6, but the cluster has 4 CPUs; use at most 4 workers"):
        train_on_ray(never, {}, fakes.folder(tmp_path), fakes.settings(workers=6))


def test_more_workers_than_gpus_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "capacity", lambda *_: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setattr(ray_train, "ray_session", contextlib.nullcontext)
    with pytest.raises(UserError, match=r"training\.device is cuda with 2 workers, but the cluster has 1 GPU"):
        train_on_ray(never, {}, fakes.folder(tmp_path), fakes.settings(workers=2, device="cuda"))


@pytest.mark.usefixtures("ray_cluster")
def test_diverged_run_is_not_retried(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 8 \(epoch 2\): loss 'decay' is nan"):
        train(tmp_path, workers=2, poisoned_step=8)
    assert RunRecord.model_validate_json((tmp_path / "run.json").read_text()).notes == []


def test_user_error_of_a_worker_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> Any:
        raise UserError("no such dataset")

    monkeypatch.setattr(ray_train, "recorded_failure", lambda _: None)
    ray_train._train({"build": build, "spec": {}, "signals": None}, fakes.folder(tmp_path), 0, 1)
    record = fakes.folder(tmp_path).record()
    assert record is not None and (record.status, record.error) == ("failed", "no such dataset")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.nightly), 2])
def test_exception_in_custom_code_ends_the_training(tmp_path: Path, workers: int) -> None:
    """Of two workers only the second raises it; the first waits for it and is restarted once."""
    spec = {"url": str(tmp_path / "run"), "settings": {"workers": workers}, "noise": 0.0, "calls": str(tmp_path)}
    settings = fakes.settings(workers=workers, max_failures=5)
    described = r"test_ray_train\.py, line \d+, in loss: TypeError: no such loss\nTraceback of custom code:\n  File "
    with pytest.raises(UserError, match=described):
        train_on_ray(build_with_bug, spec, fakes.folder(tmp_path / "run"), settings)
    assert len(list(tmp_path.glob("call*"))) == 1
    assert "TypeError: no such loss" in str(status_lines(str(tmp_path / "run")))


def build_with_bug(spec: dict[str, Any], rank: int, world_size: int) -> Any:
    trust("tests.training:Buggy")
    job = fakes.build(spec, rank, world_size)
    if rank < world_size - 1:
        return job

    def loss(_: object) -> Any:
        (Path(spec["calls"]) / f"call{time.time_ns()}").touch()
        raise TypeError("no such loss")

    job.method.loss = loss  # type: ignore[method-assign, assignment]
    return job
