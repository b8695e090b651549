from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.runtime.heartbeat import repeating
from syncclip.storage.status_file import SILENCE, keep_status_file
from syncclip.synthesis.status import STATUS_NAME, SynthesisMetrics, SynthesisStatus, mark_complete, read_status
from syncclip.workers.report import Report
from tests.metrics_port import PATIENCE, scraped

REPORT = Report(0, worker="a", started=10.0, ended=20.0, generate=9.0, rejects='{"blank": 2}')


def status_of(folder: Path) -> SynthesisStatus:
    status = read_status(str(folder))
    assert status is not None
    return status


def test_a_status_file_contains_progress_and_heartbeat(tmp_path: Path) -> None:
    now, status = iter([101.0, 501.0]), SynthesisStatus.begin(planned=100, images=20, most=1)
    with keep_status_file(str(tmp_path / STATUS_NAME), status, interval=600, clock=lambda: next(now)):
        begun = status_of(tmp_path)
        assert (begun.state, begun.images, begun.planned, begun.seen) == ("running", 20, 100, 101.0)
        status.count(REPORT, 10)
    ended = status_of(tmp_path)
    assert (ended.state, ended.images, ended.rate, ended.remaining, ended.seen) == ("complete", 30, 1.0, 70.0, 501.0)
    assert (ended.busy["generate"], ended.rejects, ended.actors) == (0.9, {"blank": 2}, 1)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (UserError("no space left"), "failed", "no space left"),
        (RuntimeError("a\nb"), "failed", "RuntimeError: a b"),
        (KeyboardInterrupt(), "interrupted", "Ctrl-C or a signal"),
    ],
)
def test_a_failure_is_recorded_until_the_dataset_is_complete(
    tmp_path: Path, error: BaseException, state: str, reason: str
) -> None:
    status = SynthesisStatus.begin(planned=100, images=20, most=1)
    with pytest.raises(type(error)), keep_status_file(str(tmp_path / STATUS_NAME), status):
        raise error
    failed = status_of(tmp_path)
    assert (failed.state, failed.reason) == (state, reason)
    assert f"why: {reason}" in failed.lines()
    mark_complete(str(tmp_path), 100, 100, storage.NOBODY)
    corrected = status_of(tmp_path)
    assert (corrected.state, corrected.reason, corrected.images, corrected.remaining) == ("complete", "", 100, 0.0)


def test_a_driver_without_heartbeat_is_reported_as_gone() -> None:
    alive = SynthesisStatus(began=0.0, seen=time.time(), images=1, planned=2)
    gone = alive.model_copy(update={"seen": time.time() - SILENCE - 3600})
    assert "gone" not in alive.lines()[-1]
    assert "last heartbeat: 1 h 2 min ago; the driver is gone" in gone.lines()[-1]
    ended = gone.model_copy(update={"state": "complete"})
    assert "gone" not in ended.lines()[-1]


def test_a_status_of_another_version_is_reported(tmp_path: Path) -> None:
    storage.write_with_checksum(str(tmp_path / "status.json"), json.dumps({"state": "flying"}).encode())
    with pytest.raises(UserError, match="use the version that wrote it"):
        read_status(str(tmp_path))


def test_reports_give_throughput_time_left_and_shares_of_stages() -> None:
    status = SynthesisStatus.begin(planned=100, images=20, most=2)
    assert (status.rate, status.remaining, set(status.busy.values()), status.actors) == (0.0, None, {0.0}, 0)
    status.count(Report(0, worker="a", started=10.0, ended=14.0, generate=3.0, write=1.0, rejects='{"blank": 2}'), 10)
    status.count(Report(1, worker="b", started=10.0, ended=15.0, generate=5.0, filter=1.0, rejects='{"blank": 1}'), 10)
    status.count(Report(2, worker="a", started=10.0, ended=15.0, computed=2.0, error="failed", deaths=1), 10)
    assert (status.images, status.rate, status.remaining, status.actors) == (40, 4.0, 15.0, 2)
    assert status.busy == {"generate": 0.8, "filter": 0.1, "encode": 0.0, "write": 0.1}
    assert (status.rejects, status.failed, status.restarts, status.computed) == ({"blank": 3}, 1, 1, 0.2)
    busy = "generate 80 %, filter 10 %, encode 0 %, write 10 %, device 20 %"
    assert status.facts() == {"busy": busy, "rejected": "blank 3"}


def test_shares_are_relative_to_the_time_since_each_actors_first_shard() -> None:
    status = SynthesisStatus.begin(planned=100, images=0, most=2)
    status.count(Report(0, worker="a", started=0.0, ended=4.0, generate=4.0), 10)
    status.count(Report(1, worker="b", started=4.0, ended=8.0, generate=4.0), 10)
    assert status.busy["generate"] == round(8 / (8 + 4), 4)
    status.count(Report(2, worker="c", started=4.0, ended=8.0, generate=4.0), 10)
    assert status.busy["generate"] == 12 / 16  # at most two of the three processes are alive


def test_silent_actors_are_not_counted() -> None:
    status = SynthesisStatus.begin(planned=100, images=0, most=2)
    for shard, worker in enumerate("abbbb"):
        status.count(Report(shard, worker=worker, started=0.0, ended=1.0), 1)
    assert status.actors == 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("url", "tag"), [("s3://bucket/set", "s3://bucket/set"), ("sets/é\n", "sets/%C3%A9%0A")], ids=["ascii", "other"]
)
def test_the_metrics_of_a_synthesis_can_be_scraped(url: str, tag: str) -> None:
    status = SynthesisStatus.begin(planned=40, images=10, most=2, hours=2.0, price=3.0)
    metrics = SynthesisMetrics(url)
    expected = {
        "images_total": 20,
        "shards_total:committed": 2,
        "shards_total:failed": 1,
        "rejects_total:blank": 3,
        "stage_seconds_total:generate": 5,
        "stage_seconds_total:write": 0.25,
        "restarts_total": 1,
        "shard_seconds_count": 2,
        "images_planned": 40,
        "images_done": 30,
        "actors": 2,
        "hours": 2.0,
        "cost": 6.0,
    }
    with repeating(lambda: metrics.set_gauges(status), 0.5):
        for report in (
            Report(0, started=10.0, ended=12.0, generate=1.5, write=0.25, worker="a", rejects='{"blank": 3}'),
            Report(1, started=10.0, ended=14.0, generate=3.5, worker="b", deaths=1),
            Report(2, started=12.0, ended=13.0, worker="a", error="OSError: reset"),
        ):
            status.count(report, 10)
            metrics.count(report, 10)
        deadline = time.monotonic() + PATIENCE
        values: dict[str, float] = {}
        while not expected.items() <= values.items() and time.monotonic() < deadline:
            time.sleep(0.5)
            values = scraped("ray_syncclip_", "outcome", "reason", "stage", "le", set=tag)
    assert {name: values.get(name) for name in expected} == expected


def test_the_status_contains_the_longest_cold_start_and_all_downloads() -> None:
    status = SynthesisStatus.begin(planned=100, images=0, most=2)
    status.count(REPORT._replace(cold_start=12.3, downloaded=7_000_000_000), 10)
    status.count(REPORT._replace(worker="b", cold_start=75.0), 10)
    status.count(REPORT, 10)
    assert "cold start: at most 1 min 15 s, 7.0 GB downloaded" in status.lines()
