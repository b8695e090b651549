"""The pool of actors on Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from syncclip.shards.index import COLUMNS, INDEX
from syncclip.synthesis import driver
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.plan import Plan
from syncclip.workers import job
from syncclip.workers.pool import MAX_STARTS, NOT_STARTED, AttemptLog, ShardRow, run_round
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool
from tests.synthesis.conftest import digests
from tests.worlds.light import LightWorker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

PATIENCE = 240.0
"""Seconds after which a test fails; on a busy machine a process takes long to start."""


class DeadlyShard:
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
    for report in run_round(range(8), DeadlyShard, Pool(1)):
        assert not context.enable_progress_bars
        reports.append(report)
    assert context.enable_progress_bars, "restored after the round"
    assert sorted(report.shard for report in reports) == list(range(8))
    errors = {report.shard: report.error for report in reports if report.error}
    assert errors == {3: f"its process died {MAX_STARTS} times (out of memory, or killed)", 5: "OSError: reset"}
    assert {report.shard: report.deaths for report in reports if report.deaths}[3] == 1


class Waiting:
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
    reports = list(run_round(range(4), partial(Waiting, str(tmp_path), 3, "shard"), Pool(1)))
    assert [report.error for report in reports] == [""] * 4


def test_a_pool_grows_while_shards_are_queued(tmp_path: Path) -> None:
    reports = list(run_round(range(12), partial(Waiting, str(tmp_path), 2, "process"), Pool(1, 2)))
    assert [report.error for report in reports] == [""] * 12


def test_a_report_arrives_before_the_next_shard_is_done(tmp_path: Path) -> None:
    errors = []
    for report in run_round(range(2), partial(Waiting, str(tmp_path), 1, "report"), Pool(1)):
        errors.append(report.error)
        (tmp_path / "received").touch()
    assert errors == ["", ""]


class LocalLog:
    """An `AttemptLog` with the interface of a Ray actor."""

    def __init__(self) -> None:
        self.log = AttemptLog()

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self.log, name))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> LocalLog:
    monkeypatch.setattr("ray.get", lambda value: value)
    return LocalLog()


def test_a_reported_shard_is_not_generated_again(log: LocalLog) -> None:
    generated: list[int] = []

    class Recording(DeadlyShard):
        def begin(self, shard: int) -> int:
            generated.append(shard)
            return shard

    first = ShardRow(log, Recording)({"shard": 3})
    for _ in range(MAX_STARTS + 1):  # as if its process had died before Ray received the report
        assert ShardRow(log, Recording)({"shard": 3}) == {**first, "deaths": 1}
    assert generated == [3]
    assert (first["deaths"], first["error"]) == (0, "")


def test_after_a_stop_only_shards_in_flight_are_finished(log: LocalLog) -> None:
    class Stopping(DeadlyShard):
        def begin(self, shard: int) -> int:
            assert log.log.stop() == {1}
            return shard

    row = ShardRow(log, Stopping)
    assert row({"shard": 1})["error"] == ""
    assert row({"shard": 2})["error"] == NOT_STARTED
    assert log.log.stop() == set()


@pytest.mark.parametrize(("write", "overlap"), [(3.0, True), (8.0, False)])
def test_slow_writes_do_not_overlap_the_next_shard(write: float, overlap: bool, log: LocalLog) -> None:
    locked: list[bool] = []

    class Writing:
        def begin(self, shard: int) -> int:
            return shard

        def commit(self, shard: int) -> Report:
            locked.append(row._computing.locked())
            return Report(shard, started=0.0, ended=10.0, write=write)

    row = ShardRow(log, Writing)
    for shard in range(3):
        row({"shard": shard})
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
            patch.setattr(job, "run_round", run_here)
            expected = synthesise_set(plan, str(tmp_path / "here"), show=False)
        summary = synthesise_set(plan, str(tmp_path / "pool"), Pool(1, 2), show=False)
        assert digests(tmp_path / "pool") == digests(tmp_path / "here")
        assert summary.rejects == expected.rejects and summary.rejects["blank"] > 0
        if images == 7:
            (tmp_path / "pool" / "00001_stats.json").unlink()  # generated again by the extension
    for name in (INDEX, COLUMNS):
        assert (tmp_path / "pool" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
