from __future__ import annotations

import contextlib
import json
import os
import shutil
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
    whole = {"url": str(folder), "settings": changes, **spec}
    return train_on_ray(fakes.build, whole, fakes.folder(folder), fakes.settings(**changes))


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """An unbroken run of two workers, without noise, since each would draw its own."""
    folder = tmp_path_factory.mktemp("two") / "run"
    assert train(folder, workers=2, noise=0.0).workers == 2
    return folder


def test_two_workers_give_the_curve_of_one(tmp_path: Path, two_workers: Path) -> None:
    run(fakes.job(tmp_path, noise=0.0))
    one, two = (safetensors.torch.load_file(folder / "prompts.safetensors") for folder in (tmp_path, two_workers))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    assert curve(tmp_path) == pytest.approx(curve(two_workers), abs=1e-5)
    status = storage.read_document(str(two_workers / STATUS), TrainingStatus, "")
    assert status is not None
    assert status.state == "complete" and status.steps == status.total_steps > 0


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.fault
def test_a_run_on_s3_outlives_its_worker_and_its_newest_checkpoint(tmp_path: Path, two_workers: Path) -> None:
    """A worker is killed after the checkpoint of step 9 was cut short, while the store refuses some requests."""
    with faulty_bucket("runs") as (bucket, proxy):
        store = {"endpoint_url": proxy.endpoint, "key": "test", "secret": "test"}  # workers have another environment
        spec = {"storage": store, "mark": str(tmp_path / "killed"), "kill_once_at": 10, "kill_rank": 1, "cuts": True}
        proxy.spoil_some(0.05, ("503", "reset", "reset answer"), seed=1)
        damaged, gone_on = train(f"{bucket}/runs/broken", workers=2, noise=0.0, **spec).notes
        assert sum(proxy.spoilt.values()) > 0
        proxy.soothe()
        assert (tmp_path / "killed").exists()
        assert damaged.startswith(f"checkpoint {bucket}/runs/broken/checkpoints/step-00000009.safetensors is damaged")
        assert gone_on == "run 'fake' resumes after step 6 of 20"
        assert fakes.bits(f"{bucket}/runs/broken") == fakes.bits(two_workers)
        assert any(name.startswith("events") for name in storage.listdir(f"{bucket}/runs/broken"))


WHOLE_JOB = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.training.test_ray_train import train
train(Path(sys.argv[1]), workers=2, noise=0.0, pause_at=14)
"""


def killed_job(folder: Path) -> None:
    """A job of its own, driver, Ray and workers, killed with -9 in step 15, after the checkpoints of steps 9 and 12."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", WHOLE_JOB, str(folder), str(Path(__file__).parents[2])]
    log = folder.with_suffix(".log")
    with log.open("wb") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as driver:
        deadline = time.monotonic() + 900
        while len(list((folder / "checkpoints").glob("step-*12.json"))) < 1:
            assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    psutil.wait_procs(family, timeout=60)
    assert driver.returncode == -signal.SIGKILL
    assert not (folder / "prompts.safetensors").exists()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """What is left of a killed job whose newest checkpoint is cut short."""
    folder = tmp_path / "broken"
    killed_job(folder)
    newest = folder / "checkpoints" / "step-00000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:-9])
    return folder


@pytest.mark.fault
def test_a_killed_job_goes_on_before_its_truncated_checkpoint_and_ends_with_the_same_bits(
    broken: Path, two_workers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = broken.with_name("alone")
    shutil.copytree(broken, alone)
    damaged, gone_on = train(broken, workers=2, noise=0.0).notes
    assert "step-00000012.safetensors is damaged" in damaged and "using the previous one" in damaged
    assert gone_on == "run 'fake' resumes after step 9 of 20"
    assert damaged in capsys.readouterr().err
    assert fakes.bits(broken) == fakes.bits(two_workers)

    notes = run(fakes.job(alone, noise=0.0)).notes
    assert notes[-1] == "the checkpoint is of 2 workers, the run resumes with 1: the last bits may differ"
    assert curve(alone) == pytest.approx(curve(two_workers), abs=1e-5)


@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_as_many_workers_are_replaced_as_the_recipe_says(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^worker 0: its process or its machine was lost; no restart is left \(training\.max_failures=0\)",
    ):
        train(tmp_path / "run", settings={"max_failures": 0}, kill_once_at=10)
    assert (tmp_path / "run.killed").exists()
    assert run(fakes.job(tmp_path / "run")).notes == ["run 'fake' resumes after step 9 of 20"]


@pytest.mark.parametrize(
    ("workers", "lack"), [(2, ""), (4, "room for 3 of 4 workers"), ((3, 8), ""), ((4, 8), "3 of 4")]
)
def test_a_training_tells_for_how_many_workers_it_waits(
    workers: int | tuple[int, int], lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"Alive": True, "Labels": {}, "Resources": {"CPU": 3.0, "GPU": 1.0}}] * 3
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.util.placement_group_table", dict)
    scaling = SimpleNamespace(num_workers=workers, resources_per_worker={"CPU": 2, "GPU": 1}, label_selector=None)
    assert lack in ray_train._lack(scaling)
    assert bool(lack) == bool(ray_train._lack(scaling))


@pytest.mark.parametrize(
    ("selector", "lack"),
    [
        ({"ray.io/market-type": "!spot"}, ""),
        ({"ray.io/market-type": "spot"}, "room for 1 of 2 workers on nodes with ray.io/market-type=spot"),
        ({"ray.io/market-type": "!spot", "zone": "a"}, "0 of 2 workers on nodes with ray.io/market-type!=spot,zone=a"),
    ],
)
def test_a_training_reports_that_it_waits_for_labelled_nodes(
    selector: dict[str, str], lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[dict[str, str]] = [{}, {"ray.io/market-type": "on-demand"}, {"ray.io/market-type": "spot"}]
    nodes = [{"Alive": True, "Labels": one, "Resources": {"CPU": 1.0}} for one in labels]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.util.placement_group_table", dict)
    scaling = SimpleNamespace(num_workers=2, resources_per_worker={"CPU": 1}, label_selector=selector)

    assert lack in ray_train._lack(scaling)
    assert bool(lack) == bool(ray_train._lack(scaling))


@pytest.mark.usefixtures("ray_cluster")
def test_a_training_tells_that_it_waits_where_others_use_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    other, said = ray.remote(num_cpus=4)(Other).remote(), []
    ray.get(other.is_there.remote())

    def print_message(sentence: str) -> None:
        said.append(sentence)
        if "in use" in sentence:
            ray.kill(other)

    monkeypatch.setattr(ray_train, "print_message", print_message)
    monkeypatch.setattr(ray_train, "LOOK_SECONDS", 1.0)
    assert train(tmp_path, workers=2).status == "finished"
    assert said == [
        "train: syncclip, 4 epochs on 2 workers",
        "the cluster is in use by others; training waits for room for 2 workers",
    ]


class Other:
    """What takes up all of a cluster."""

    def is_there(self) -> bool:
        return True


def test_a_checkpoint_of_another_recipe_is_refused_and_left(tmp_path: Path) -> None:
    checkpoints.write(str(tmp_path / "checkpoints"), Checkpoint(3, {}), "b" * 64, keep=2)
    with pytest.raises(UserError, match="belongs to recipe bbbbbbbbbbbb, not to aaaaaaaaaaaa; choose another"):
        train_on_ray(_never, {}, fakes.folder(tmp_path), fakes.settings())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_finished_run_starts_no_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(fakes.job(tmp_path))
    assert train_on_ray(_never, {}, fakes.folder(tmp_path), fakes.settings()).status == "finished"
    assert "is finished" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"workers is 6, but the cluster has 4 CPUs; use at most 4 workers"):
        train_on_ray(_never, {}, fakes.folder(tmp_path), fakes.settings(workers=6))


def test_gpus_that_the_cluster_lacks_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "capacity", lambda *_: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setattr(ray_train, "ray_session", contextlib.nullcontext)
    with pytest.raises(UserError, match=r"training\.device is cuda with 2 workers, but the cluster has 1 GPU"):
        train_on_ray(_never, {}, fakes.folder(tmp_path), fakes.settings(workers=2, device="cuda"))


def test_a_changed_recipe_is_refused_before_ray_starts(tmp_path: Path) -> None:
    run(fakes.job(tmp_path))
    with pytest.raises(UserError, match="of recipe aaaaaaaaaaaa, but this is run 'fake' of recipe bbbbbbbbbbbb"):
        train_on_ray(_never, {}, fakes.folder(tmp_path, "b" * 64), fakes.settings())


@pytest.mark.usefixtures("ray_cluster")
def test_a_diverged_run_is_told_in_one_sentence_and_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 8 \(epoch 2\): loss 'decay' is nan"):
        train(tmp_path, workers=2, poisoned_step=8)
    assert RunRecord.model_validate_json((tmp_path / "run.json").read_text()).notes == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_users_mistake_on_a_worker_comes_back_as_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such thing"):
        train_on_ray(_mistaken, {}, fakes.folder(tmp_path), fakes.settings())


def _never(*_: Any) -> Any:
    raise AssertionError("nothing is to be built")


def _mistaken(*_: Any) -> Any:
    raise UserError("no such thing as a free set; make one")


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_in_own_code_ends_a_training_without_retries(tmp_path: Path, workers: int) -> None:
    """On two workers only the second has it, so the other one waits for it and is restarted once."""
    spec = {"url": str(tmp_path / "run"), "settings": {"workers": workers}, "noise": 0.0, "tries": str(tmp_path)}
    settings = fakes.settings(workers=workers, max_failures=5)
    with pytest.raises(UserError, match=r"test_ray_train\.py, line \d+, in loss: TypeError: no such loss$"):
        train_on_ray(_buggy, spec, fakes.folder(tmp_path / "run"), settings)
    assert len(list(tmp_path.glob("try*"))) == 1
    assert "TypeError: no such loss" in str(status_lines(str(tmp_path / "run")))


def _buggy(spec: dict[str, Any], rank: int, world_size: int) -> Any:
    trust("tests.training:Buggy")
    job = fakes.build(spec, rank, world_size)
    if rank < world_size - 1:
        return job

    def loss(_: object) -> Any:
        (Path(spec["tries"]) / f"try{time.time_ns()}").touch()
        raise TypeError("no such loss")

    job.method.loss = loss  # type: ignore[method-assign, assignment]
    return job
