"""The pool of actors on Ray."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import psutil
import pytest
import ray

from syncclip.shards.index import COLUMNS, INDEX
from syncclip.synthesis import driver
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.plan import Plan
from syncclip.workers import job
from syncclip.workers.job import run_job
from syncclip.workers.pool import MAX_DEATHS, MAX_STARTS, NOT_STARTED, LimitError, ShardRow, run_pool
from syncclip.workers.queue import ShardQueue
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool
from tests.synthesis.conftest import digests
from tests.workers.test_job import Job
from tests.worlds.light import LightWorker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

PATIENCE = 240.0
"""Seconds after which a test fails; on a busy machine a process takes long to start."""


class Plain:
    """A worker without models, whose shards succeed."""

    def prepare(self) -> None: ...

    def begin(self, shard: int) -> int:
        return shard

    def commit(self, shard: int) -> Report:
        return Report(shard)


class DeadlyShard(Plain):
    """Kills its process at shard 3, and returns an error for shard 5."""

    def begin(self, shard: int) -> int:
        if shard == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return shard

    def commit(self, shard: int) -> Report:
        return Report(shard, error="OSError: reset" if shard == 5 else "")


@pytest.mark.fault
def test_a_deadly_shard_becomes_an_error_and_all_others_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    monkeypatch.setattr(context, "enable_progress_bars", True)
    reports = []
    for report in run_pool(range(8), DeadlyShard, Pool(1, retries=0)):
        assert not context.enable_progress_bars
        reports.append(report)
    assert context.enable_progress_bars, "restored afterwards"
    assert sorted(report.shard for report in reports) == list(range(8))
    errors = {report.shard: report.error for report in reports if report.error}
    assert errors == {3: f"its process died {MAX_STARTS} times (out of memory, or killed)", 5: "OSError: reset"}
    assert {report.shard: report.deaths for report in reports if report.deaths}[3] == 1


class LosesQueue(Plain):
    """Kills the process of the queue, once."""

    def __init__(self, folder: str) -> None:
        self.killed, self.folder = Path(folder, "killed"), Path(folder)

    def begin(self, shard: int) -> int:
        raylet = psutil.Process().parent()
        if not self.killed.exists() and raylet is not None:
            self.killed.touch()
            for process in raylet.children():
                if "ShardQueue" in " ".join(process.cmdline()):
                    process.kill()
        return shard

    def commit(self, shard: int) -> Report:
        (self.folder / str(shard)).touch()
        return Report(shard)


@pytest.mark.fault
def test_an_execution_that_ends_early_releases_its_cpus_for_the_next(tmp_path: Path) -> None:
    todo = Job(tmp_path)
    gc.disable()  # a failed execution of Ray Data is part of a reference cycle
    try:
        worker: Any = partial(LosesQueue, str(tmp_path))
        for report in run_job(todo, todo.remaining(), worker, Pool(1, retries=2), 4, folder=str(tmp_path)):
            assert not report.error
    finally:
        gc.enable()
    assert (tmp_path / "killed").exists() and todo.remaining() == []


class Waiting(Plain):
    """Commits shards after the first one only once a folder has `count` files: one per started shard or process."""

    write = 1.0

    def __init__(self, folder: str, count: int, by: Literal["shard", "process", "report"]) -> None:
        self.folder, self.count, self.by = Path(folder), count, by
        self.first = True

    def begin(self, shard: int) -> int:
        if self.by != "report":
            (self.folder / str(shard if self.by == "shard" else os.getpid())).touch()
        return shard

    def commit(self, shard: int) -> Report:
        deadline = time.monotonic() + PATIENCE
        first, self.first = self.first, False
        while not first and len(list(self.folder.iterdir())) < self.count:
            if time.monotonic() > deadline:
                return Report(shard, error="timed out")
            time.sleep(0.02)
        return Report(shard, started=0.0, ended=10.0, write=self.write)


def test_the_next_shard_is_generated_while_one_is_written(tmp_path: Path) -> None:
    reports = list(run_pool(range(4), partial(Waiting, str(tmp_path), 3, "shard"), Pool(1)))
    assert [report.error for report in reports] == [""] * 4


class Slow(Plain):
    """Reports a duration of 15 s per shard."""

    def commit(self, shard: int) -> Report:
        return Report(shard, started=0.0, ended=15.0, write=15.0)


def test_a_pool_stops_before_its_limit_of_billed_time() -> None:
    """A second shard of 15 s would exceed the limit."""
    reports = run_pool(range(99), Slow, Pool(1), limit=15.0)
    assert next(reports).billed > 0
    with pytest.raises(LimitError):
        next(reports)


def test_a_pool_grows_while_shards_are_queued(tmp_path: Path) -> None:
    reports = list(run_pool(range(12), partial(Waiting, str(tmp_path), 2, "process"), Pool(1, 2)))
    assert [report.error for report in reports] == [""] * 12


def test_a_report_arrives_before_the_next_shard_is_done(tmp_path: Path) -> None:
    errors = []
    for report in run_pool(range(2), partial(Waiting, str(tmp_path), 1, "report"), Pool(1)):
        errors.append(report.error)
        (tmp_path / "received").touch()
    assert errors == ["", ""]


class Mortal(Plain):
    """Records each start of an actor; the first actor's process is killed at each of its first `kills` shards.

    The other actors wait for these kills, so that they don't complete all shards meanwhile.
    """

    def __init__(self, folder: str, kills: int) -> None:
        self.folder, self.kills = Path(folder), kills
        self.actor = ray.get_runtime_context().get_actor_id()

    def prepare(self) -> None:
        (self.folder / f"{self.actor}-{os.getpid()}").touch()

    def begin(self, shard: int) -> int:
        with suppress(FileExistsError), (self.folder / "victim").open("x") as file:
            file.write(self.actor)
        deadline = time.monotonic() + PATIENCE
        while len(list(self.folder.glob("killed-*"))) < self.kills and time.monotonic() < deadline:
            if (self.folder / "victim").read_text() == self.actor:
                with suppress(FileExistsError), (self.folder / f"killed-{shard}").open("x"):
                    os.kill(os.getpid(), signal.SIGKILL)
                break
            time.sleep(0.05)
        return shard


@pytest.mark.fault
def test_only_the_actor_that_is_killed_starts_again(tmp_path: Path) -> None:
    """More kills than Ray Data's usual restarts allow; all other actors keep their models."""
    kills = 6
    reports = list(run_pool(range(64), partial(Mortal, str(tmp_path), kills), Pool(2)))
    assert sorted(report.shard for report in reports) == list(range(64))
    assert not any(report.error for report in reports)
    assert sum(report.deaths for report in reports) >= kills == len(list(tmp_path.glob("killed-*")))
    victim = (tmp_path / "victim").read_text()
    starts = Counter(path.name.partition("-")[0] for path in tmp_path.glob("*-*") if "killed" not in path.name)
    assert starts.pop(victim) == kills + 1 and list(starts.values()) == [1]


class LocalQueue:
    """A `ShardQueue` with the interface of a Ray actor; its first tickets are assigned in order of the shards."""

    def __init__(self, shards: int) -> None:
        self.queue = ShardQueue(range(shards), window=shards)
        for ticket in range(shards):
            assert asyncio.run(self.queue.assign(ticket)) == ticket

    def __getattr__(self, name: str) -> SimpleNamespace:
        method = getattr(self.queue, name)
        return SimpleNamespace(remote=lambda *arguments: asyncio.run(method(*arguments)))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> LocalQueue:
    monkeypatch.setattr("ray.get", lambda value: value)
    return LocalQueue(4)


def row(shard: int) -> dict[str, int]:
    return {"ticket": shard, "shard": shard}


def test_a_reported_shard_is_not_generated_again(queue: LocalQueue) -> None:
    generated: list[int] = []

    class Recording(Plain):
        def begin(self, shard: int) -> int:
            generated.append(shard)
            return shard

    first = ShardRow(queue, Recording)(row(3))
    for _ in range(MAX_STARTS + 1):  # as if its process had died before Ray received the report
        assert ShardRow(queue, Recording)(row(3)) == {**first, "deaths": 1}
    assert generated == [3]
    assert (first["deaths"], first["error"]) == (0, "")


def test_models_are_loaded_before_an_attempt_is_counted(queue: LocalQueue) -> None:
    class Loading(Plain):
        def prepare(self) -> None:
            assert not queue.queue._starts

    assert ShardRow(queue, Loading)(row(0))["error"] == ""
    assert queue.queue._starts == {0: 1}


def test_an_actor_that_keeps_dying_ends_the_job(queue: LocalQueue) -> None:
    for _ in range(MAX_DEATHS):
        ShardRow(queue, Plain)
    assert ShardRow(queue, Plain)(row(0))["error"] == ""
    for _ in range(MAX_DEATHS + 1):
        dying = ShardRow(queue, Plain)
    report = dying(row(1))
    assert report["fatal"] and f"died {MAX_DEATHS + 1} times in a row" in report["error"]


def test_after_a_stop_only_shards_in_flight_are_finished(queue: LocalQueue) -> None:
    class Stopping(Plain):
        def begin(self, shard: int) -> int:
            assert asyncio.run(queue.queue.stop()) == {1}
            return shard

    stopping = ShardRow(queue, Stopping)
    assert stopping(row(1))["error"] == ""
    assert stopping(row(2))["error"] == NOT_STARTED
    assert asyncio.run(queue.queue.stop()) == {1}, "its report is not received yet"
    asyncio.run(queue.queue.receive(1))
    assert asyncio.run(queue.queue.stop()) == set()


@pytest.mark.parametrize(("write", "overlap"), [(3.0, True), (8.0, False)])
def test_slow_writes_do_not_overlap_the_next_shard(write: float, overlap: bool, queue: LocalQueue) -> None:
    locked: list[bool] = []

    class Writing(Plain):
        def commit(self, shard: int) -> Report:
            locked.append(writing._computing.locked())
            return Report(shard, started=0.0, ended=10.0, write=write)

    writing = ShardRow(queue, Writing)
    for shard in range(3):
        writing(row(shard))
    assert locked == [True, not overlap, not overlap]


def test_bytes_do_not_depend_on_actors_losses_and_extensions(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(shards: Any, worker: Callable[[], LightWorker], **_: Any) -> Iterator[Report]:
        here = worker()
        return (here.commit(here.begin(shard)) for shard in shards)

    monkeypatch.setattr(driver, "ShardWorker", LightWorker)
    settings: dict[str, Any] = {"shard_size": 5, "filters": [{"name": "blank", "minimum": 40}], "attempts": 2}
    for images in (7, 9):
        plan = make_plan(images, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(job, "run_pool", run_here)
            expected = synthesise_set(plan, str(tmp_path / "here"), show=False)
        summary = synthesise_set(plan, str(tmp_path / "pool"), Pool(1, 2), show=False)
        assert digests(tmp_path / "pool") == digests(tmp_path / "here")
        assert summary.rejects == expected.rejects and summary.rejects["blank"] > 0
        if images == 7:
            (tmp_path / "pool" / "00001_stats.json").unlink()  # generated again by the extension
    for name in (INDEX, COLUMNS):
        assert (tmp_path / "pool" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
