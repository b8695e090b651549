"""The worker's base class and the driver loop, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core import trust
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.workers import job
from syncclip.workers.job import Worker, check_capacity, run_job
from syncclip.workers.pool import PoolError
from syncclip.workers.report import Report, failed
from syncclip.workers.settings import ONE_ACTOR, Pool


class Squares(Worker[int]):
    """Writes the square of a shard's number; the step `broken` raises."""

    def __init__(self, folder: Path, broken: str = "") -> None:
        super().__init__(1)
        self.folder, self.broken = str(folder), broken

    def _step(self, name: str) -> None:
        if name == self.broken:
            raise OSError(f"{name} failed")

    def load(self) -> None:
        self._step("load")

    def start(self, shard: int) -> Callable[[], int]:
        self._step("start")
        return lambda: (self._step("finish"), shard**2)[1]  # type: ignore[func-returns-value]

    def summary(self, result: int) -> dict[str, Any]:
        return {"images": result}

    def write(self, result: int, report: Report, seconds: float) -> None:
        self._step("write")
        assert seconds >= 0
        storage.write_bytes(f"{self.folder}/{report.shard}", str(result).encode())


@pytest.mark.parametrize("broken", ["load", "start", "finish", "write"])
def test_an_error_in_any_step_is_returned_in_the_report(tmp_path: Path, broken: str) -> None:
    worker = Squares(tmp_path, broken)
    report = worker.commit(worker.begin(3))
    assert (report.error, report.images) == (f"OSError: {broken} failed", 0)
    assert not report.fatal and "Traceback" in report.trace and report.ended >= report.started > 0
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_custom_code_is_fatal(tmp_path: Path) -> None:
    trust.trust("mine:Pipeline")
    functions: dict[str, Callable[[], None]] = {"__name__": "mine"}  # type: ignore[dict-item]
    exec(compile("def draw():\n    raise TypeError('no steps')", "mine.py", "exec"), functions)
    try:
        functions["draw"]()
    except TypeError as error:
        report = failed(Report(0), error)
    assert report.fatal and report.error == "mine.py, line 2, in draw: TypeError: no steps"
    assert not failed(Report(0), TypeError("a defect")).fatal


class Job:
    """Shards that are done once their file exists."""

    def __init__(self, folder: Path, shards: int = 4) -> None:
        self.folder, self.shards = folder, range(shards)

    def remaining(self) -> list[int]:
        return [shard for shard in self.shards if not (self.folder / str(shard)).exists()]

    def failure(self, shard: int, cause: str, remaining: int) -> str:
        return f"shard {shard} failed: {cause}; {remaining} left"

    def run(self, retries: int = 2, local: bool = False) -> list[Report]:
        worker = lambda: Squares(self.folder)  # noqa: E731
        pool = ONE_ACTOR._replace(retries=retries)
        return list(run_job(self, self.remaining(), worker, pool, 1, folder=str(self.folder), local=local))


class FailingPool:
    """Shard s fails `errors[s]` times, the shard `deadly` ends each execution, and `lost` loses its file once."""

    def __init__(self, errors: dict[int, int], deadly: int | None = None, lost: int | None = None) -> None:
        self.errors, self.deadly, self.lost = errors, deadly, lost
        self.executions: list[list[int]] = []

    def __call__(self, shards: Sequence[int], worker: Callable[[], Squares], pool: Pool, **_: Any) -> Iterator[Report]:
        self.executions.append(list(shards))
        here = worker()
        for shard in [*shards, *sorted(self.errors) * pool.retries]:
            if shard == self.deadly:
                raise PoolError("ActorDiedError")
            if self.errors.get(shard, 0) > 0:
                self.errors[shard] -= 1
                yield Report(shard, error="OSError: connection reset")
            else:
                yield here.commit(here.begin(shard))
            if shard == self.lost:
                self.lost = None
                Path(here.folder, str(shard)).unlink()


@pytest.mark.parametrize(
    ("pool", "retries", "executions", "message"),
    [
        (FailingPool({1: 2, 3: 1}), 2, [[0, 1, 2, 3]], ""),
        (FailingPool({}, lost=2), 2, [[0, 1, 2, 3], [2]], ""),
        (FailingPool({1: 99}), 2, [[0, 1, 2, 3]], "shard 1 failed: OSError: connection reset; 1 left"),
        (
            FailingPool({}, deadly=1),
            1,
            [[0, 1, 2, 3], [1, 2, 3], [1, 2, 3]],
            r"shard 1 failed: Ray ended the execution early \(ActorDiedError\); 3 left",
        ),
    ],
)
def test_only_executions_that_end_early_or_lose_a_marker_are_repeated(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pool: FailingPool,
    retries: int,
    executions: list[list[int]],
    message: str,
) -> None:
    monkeypatch.setattr(job, "run_pool", pool)
    if message:
        with pytest.raises(UserError, match=message):
            Job(tmp_path).run(retries)
    else:
        Job(tmp_path).run(retries)
    assert pool.executions == executions
    assert bool(Job(tmp_path).remaining()) == bool(message)


def test_a_local_job_needs_no_pool(tmp_path: Path) -> None:
    assert [report.images for report in Job(tmp_path).run(local=True)] == [0, 1, 4, 9]


def test_actors_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "capacity", lambda _: {"CPU": 2.0, "GPU": 0.0})
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match="synthesis.num_gpus is 1, but the cluster has 0 GPUs and 2 CPUs"):
        check_capacity(Pool(num_gpus=1.0), 1)
    check_capacity(Pool(3), 2)  # a cluster at RAY_ADDRESS needs capacity for one actor
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(
        UserError, match="3 actors with 2 threads each would need 6 CPUs, but only 2 are available; use at most 1"
    ):
        check_capacity(Pool(3), 2)


def test_a_selector_without_nodes_lists_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": alive, "Labels": {"ray.io/node-id": kind, "ray.io/market-type": kind}, "Resources": {"CPU": 2.0}}
        for kind, alive in (("on-demand", True), ("spot", False))
    ]
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    check_capacity(Pool(label_selector={"ray.io/market-type": "!spot"}), 1)
    missing, existing = "ray.io/market-type=spot", "ray.io/market-type=on-demand"
    with pytest.raises(UserError, match=f"label_selector: no node has {missing}; labels of the nodes: {existing}$"):
        check_capacity(Pool(label_selector={"ray.io/market-type": "spot"}), 1)


def test_a_local_instance_of_ray_has_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="--label: no node has gpu=a100; labels of the nodes: none"):
        check_capacity(Pool(label_selector={"gpu": "a100"}), 1, selector_key="--label")


def test_only_the_first_report_contains_the_cold_start(tmp_path: Path) -> None:
    class Downloading(Squares):
        def load(self) -> None:
            current().downloads.extend([3, 4])

    current().downloads.append(100)  # before the worker was created
    worker = Downloading(tmp_path)
    first, second = (worker.commit(worker.begin(shard)) for shard in range(2))
    assert first.cold_start > 0 and first.downloaded == 7
    assert (second.cold_start, second.downloaded) == (0, 0)
