"""Kills of processes during a synthesis: the same command completes the dataset with the same bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from syncclip.shards.markers import committed
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, write_plan
from syncclip.synthesis.status import SynthesisStatus
from syncclip.workers.settings import Pool
from tests.synthesis.conftest import digests
from tests.worlds.light import LightWorker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault, pytest.mark.usefixtures("ray_cluster")]

SHARDS = 6

DRIVER = """
import os, signal, sys
from pathlib import Path
from syncclip.synthesis import driver
from syncclip.synthesis.plan import Plan
from syncclip.workers.settings import Pool
from tests.worlds.light import LightWorker
driver.ShardWorker = LightWorker
driver.synthesise_set(Plan.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2],
               observe=lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""
"""A driver that kills itself at the first report, when its actor generates the next shard."""


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    """A plan whose shards take some tenths of a second, long enough to be killed halfway."""
    return make_plan(16, shard_size=8)


@pytest.fixture(autouse=True)
def light_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the worker by one without diffusers."""
    monkeypatch.setattr("syncclip.synthesis.driver.ShardWorker", LightWorker)


@pytest.fixture
def expected(plan: Plan, tmp_path: Path) -> dict[str, str]:
    """Checksums of the dataset, generated in this process without kills."""
    located = plan.model_copy(update={"weights": locate(plan.generator).fingerprint})
    folder = tmp_path / "expected"
    text = write_plan(located, str(folder)).model_dump_json()
    worker = LightWorker(text, str(folder), "cpu", plan.generator.pipeline)
    assert [worker.commit(worker.begin(shard)).error for shard in plan.shards()] == [""] * SHARDS
    return digests(folder)


def generating_processes() -> list[psutil.Process]:
    """Actors of this process's Ray that generate shards."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("ShardRow" in word for word in process.cmdline()):
                processes.append(process)
    return processes


def test_a_killed_actor_changes_no_byte(plan: Plan, expected: dict[str, str], tmp_path: Path) -> None:
    killed: list[int] = []
    others = generating_processes()  # those of the previous test may still be running

    def kill_once(_: SynthesisStatus) -> None:
        if not killed:  # the actor generates the second shard
            for process in set(generating_processes()).difference(others):
                process.kill()
                killed.append(process.pid)

    summary = synthesise_set(plan, str(tmp_path / "set"), show=False, observe=kill_once)
    assert len(killed) == 1
    assert summary.complete and summary.images == plan.total
    assert digests(tmp_path / "set") == expected


def test_the_same_call_completes_the_dataset_of_a_killed_driver(
    plan: Plan, expected: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "plan.json"), str(folder)]
    log = tmp_path / "driver.log"
    with log.open("wb") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as driver:
        children: set[psutil.Process] = set()
        while driver.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children.update(psutil.Process(driver.pid).children(recursive=True))
            time.sleep(0.05)
    assert driver.returncode == -signal.SIGKILL, log.read_text()
    psutil.wait_procs(list(children), 10.0)  # Ray shuts down after its driver, except for its agents
    before_resuming = {shard: (folder / f"{shard:05d}.tar").stat() for shard in committed(str(folder))}
    assert 0 < len(before_resuming) < SHARDS

    summary = synthesise_set(plan, str(folder), Pool(2), show=False)
    assert summary.complete and summary.work.images == plan.total - 8 * len(before_resuming)
    assert digests(folder) == expected
    for shard, before in before_resuming.items():
        after = (folder / f"{shard:05d}.tar").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
