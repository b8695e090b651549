"""The pool of actors on a real Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from syncclip.shards.index import COLUMNS, INDEX
from syncclip.synthesis import driver
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.plan import Plan
from syncclip.workers.pool import MAX_STARTS, NOT_STARTED, AttemptLog, ShardRow, run_round
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool
from tests.synthesis.conftest import digests
from tests.worlds.light import LightWorker

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


class DeadlyShard:
    """Makes nothing; its process dies at shard 3, and shard 5 comes back as an error."""

    def begin(self, shard: int) -> int:
        if shard == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return shard

    def commit(self, shard: int) -> Report:
        return Report(shard, error="OSError: reset" if shard == 5 else "")


@pytest.mark.fault
def test_a_shard_that_kills_its_process_becomes_an_error_and_all_others_finish() -> None:
    reports = list(run_round(range(8), DeadlyShard, Pool(1)))
    assert sorted(report.shard for report in reports) == list(range(8))
    errors = {report.shard: report.error for report in reports if report.error}
    assert errors == {
        3: f"its process died {MAX_STARTS} times (out of memory, or killed)",
        5: "OSError: reset",
    }
    assert {report.shard: report.deaths for report in reports if report.deaths}[3] == 1


def test_a_round_disables_progress_bars_and_restores_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    monkeypatch.setattr(context, "enable_progress_bars", True)
    assert [context.enable_progress_bars for _ in run_round(range(2), DeadlyShard, Pool(1))] == [False, False]
    assert context.enable_progress_bars


PATIENCE = 240.0
"""Seconds after which a test fails; on a busy machine a process takes long to start."""


class Waiting:
    """Ends no shard but its first until a folder holds `wanted` files: one per started shard, or per process."""

    write = 1.0

    def __init__(self, folder: str, wanted: int, by: Literal["shard", "process"]) -> None:
        self.folder, self.wanted, self.by = Path(folder), wanted, by
        self.first = True

    def begin(self, shard: int) -> int:
        name = shard if self.by == "shard" else os.getpid()
        (self.folder / str(name)).touch()
        return shard

    def commit(self, shard: int) -> Report:
        deadline = time.monotonic() + PATIENCE
        first, self.first = self.first, False
        while not first and len(list(self.folder.iterdir())) < self.wanted:
            if time.monotonic() > deadline:
                return Report(shard, error="timed out")
            time.sleep(0.02)
        return Report(shard, started=0.0, ended=10.0, write=self.write)


def test_the_next_shard_is_generated_while_one_is_written(tmp_path: Path) -> None:
    worker = partial(Waiting, str(tmp_path), 3, "shard")
    reports = list(run_round(range(4), worker, Pool(1)))
    assert [report.error for report in reports] == [""] * 4


class Ordered:
    """Ends the second shard only after the report of the first was received."""

    def __init__(self, received: str) -> None:
        self.received = Path(received)
        self.first = True

    def begin(self, shard: int) -> int:
        return shard

    def commit(self, shard: int) -> Report:
        deadline = time.monotonic() + PATIENCE / 4
        first, self.first = self.first, False
        while not first and not self.received.exists():
            if time.monotonic() > deadline:
                return Report(shard, error="the first report was not received")
            time.sleep(0.02)
        return Report(shard)


def test_a_report_comes_before_the_next_shard_is_done(tmp_path: Path) -> None:
    received = tmp_path / "received"
    errors = []
    for report in run_round(range(2), partial(Ordered, str(received)), Pool(1)):
        errors.append(report.error)
        received.touch()
    assert errors == ["", ""]


class LocalLog:
    """An `AttemptLog` with the interface of a Ray actor, for a row without Ray."""

    def __init__(self) -> None:
        self.log = AttemptLog()

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self.log, name))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> LocalLog:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    return LocalLog()


def test_a_shard_whose_process_died_with_its_report_on_the_way_is_not_generated_again(log: LocalLog) -> None:
    generated: list[int] = []

    class Noting(DeadlyShard):
        def begin(self, shard: int) -> int:
            generated.append(shard)
            return shard

    first = ShardRow(log, Noting)({"shard": 3})
    for _ in range(MAX_STARTS + 1):
        assert ShardRow(log, Noting)({"shard": 3}) == {**first, "deaths": 1}
    assert generated == [3]
    assert (first["deaths"], first["error"]) == (0, "")


def test_after_a_stop_only_shards_in_flight_are_finished(log: LocalLog) -> None:
    class Asked(DeadlyShard):
        def begin(self, shard: int) -> int:
            assert log.log.stop() == {1}
            return shard

    row = ShardRow(log, Asked)
    assert row({"shard": 1})["error"] == ""
    assert row({"shard": 2})["error"] == NOT_STARTED
    assert log.log.stop() == set()


@pytest.mark.parametrize(("write", "overlap"), [(3.0, True), (8.0, False)])
def test_a_slow_writer_blocks_the_next_shard(write: float, overlap: bool, log: LocalLog) -> None:
    held: list[bool] = []

    class Written:
        def begin(self, shard: int) -> int:
            return shard

        def commit(self, shard: int) -> Report:
            held.append(row._computing.locked())
            return Report(shard, started=0.0, ended=10.0, write=write)

    row = ShardRow(log, Written)
    for shard in range(3):
        row({"shard": shard})
    assert held == [True, not overlap, not overlap]


def test_a_pool_grows_while_shards_wait(tmp_path: Path) -> None:
    worker = partial(Waiting, str(tmp_path), 2, "process")
    reports = list(run_round(range(12), worker, Pool(1, 2)))
    assert [report.error for report in reports] == [""] * 12


def test_any_number_of_actors_generates_the_same_bytes_also_after_a_loss_and_an_extension(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "ShardWorker", LightWorker)
    settings: dict[str, Any] = {"shard_size": 5, "filters": [{"name": "blank", "minimum": 40}], "attempts": 2}
    one, many = (synthesise_set(make_plan(7, **settings), str(tmp_path / str(n)), Pool(n), show=False) for n in (1, 4))
    quiet = digests(tmp_path / "1")
    assert sum(name.endswith(".tar") for name in quiet) == 5
    assert digests(tmp_path / "4") == quiet
    assert one.rejects == many.rejects and sum(one.rejects.values()) > 0
    (tmp_path / "4" / "00001_stats.json").unlink()
    synthesise_set(make_plan(9, **settings), str(tmp_path / "4"), Pool(1, 2), show=False)
    synthesise_set(make_plan(9, **settings), str(tmp_path / "1"), Pool(1), show=False)
    assert digests(tmp_path / "4") == digests(tmp_path / "1")
    assert {name: digest for name, digest in digests(tmp_path / "4").items() if name in quiet} | {
        "plan.json": quiet["plan.json"]
    } == quiet
    for name in (INDEX, COLUMNS):
        assert (tmp_path / "4" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
