"""Killing processes in mid-synthesis: the same command again ends with the bytes of an unbroken run."""

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
"""A command that is killed with -9 when the first shard is reported; its actor is at the next one then."""


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    """Shards of some tenths of a second: long enough to be hit in the middle."""
    return make_plan(16, shard_size=8)


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed need not load diffusers first."""
    monkeypatch.setattr("syncclip.synthesis.driver.ShardWorker", LightWorker)


@pytest.fixture
def quiet(plan: Plan, tmp_path: Path) -> dict[str, str]:
    """The bytes of a run that nothing disturbs, generated shard after shard in this process."""
    known = plan.model_copy(update={"weights": locate(plan.generator).fingerprint})
    folder = tmp_path / "quiet"
    make = LightWorker(write_plan(known, str(folder)).model_dump_json(), str(folder), "cpu", plan.generator.pipeline)
    assert [make({"shard": shard})["error"] for shard in plan.shards()] == [""] * SHARDS
    return digests(folder)


def generating_processes() -> list[psutil.Process]:
    """The actors of this process's own Ray that generate shards."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("ShardRow" in word for word in process.cmdline()):
                found.append(process)
    return found


def test_an_actor_killed_in_mid_shard_costs_no_byte(plan: Plan, quiet: dict[str, str], tmp_path: Path) -> None:
    killed: list[int] = []
    others = generating_processes()  # of the test before, which may not have ended yet

    def kill_once(_: SynthesisStatus) -> None:
        if not killed:  # the first shard is done, the actor is at the next
            for process in set(generating_processes()).difference(others):
                process.kill()
                killed.append(process.pid)

    summary = synthesise_set(plan, str(tmp_path / "set"), show=False, observe=kill_once)
    assert len(killed) == 1
    assert summary.complete and summary.images == plan.total
    assert digests(tmp_path / "set") == quiet


def test_a_driver_killed_in_mid_synthesis_is_completed_by_the_same_call(
    plan: Plan, quiet: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    (tmp_path / "asked.json").write_text(plan.model_dump_json())
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "asked.json"), str(folder)]
    log = tmp_path / "driver.log"
    with log.open("wb") as stderr, subprocess.Popen(command, env=environment, stderr=stderr) as driver:
        family: set[psutil.Process] = set()
        while driver.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                family.update(psutil.Process(driver.pid).children(recursive=True))
            time.sleep(0.05)
    assert driver.returncode == -signal.SIGKILL, log.read_text()
    # Its Ray ends by itself, but for agents that look after it; what it generates until then is whole or not.
    psutil.wait_procs(list(family), 10.0)
    there = committed(str(folder))
    assert 0 < len(there) < SHARDS
    finished = {shard: (folder / f"{shard:05d}.tar").stat() for shard in there}

    summary = synthesise_set(plan, str(folder), Pool(2), show=False)
    assert summary.complete and summary.work.images == plan.total - 8 * len(there)
    assert digests(folder) == quiet
    for shard, before in finished.items():
        after = (folder / f"{shard:05d}.tar").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
