"""Synthetic datasets generated in this process; test_pool.py and test_faults.py use Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncclip.cli import render
from syncclip.core.settings import UserError
from syncclip.shards.markers import committed
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis import driver
from syncclip.synthesis.budget import BudgetError
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.plan import Plan, read_plan
from syncclip.synthesis.settings import CostSettings
from syncclip.synthesis.status import read_status
from syncclip.workers import job
from syncclip.workers.pool import LimitError
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool
from tests.shards.sets import verify
from tests.synthesis.conftest import digests
from tests.synthesis.generators.conftest import make_lora
from tests.worlds.clip import make_clip_folder

MakePlan = Callable[..., Plan]


def test_a_dataset_is_complete_and_summed_up(in_process: list[int], make_plan: MakePlan, tmp_path: Path) -> None:
    images: list[int] = []
    summary = synthesise_set(
        make_plan(5, shard_size=4), str(tmp_path), show=False, observe=lambda status: images.append(status.images)
    )
    assert in_process == [0, 1, 2, 3]
    assert verify(str(tmp_path)) == []
    assert (summary.complete, summary.images, summary.fewest, summary.most, summary.shards) == (True, 15, 5, 5, 4)
    assert images == [4, 8, 12, 15] and 0 < summary.work.busy <= 1
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["images"] == 15 and "work" not in written


@pytest.mark.gpu
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_a_gpu_gives_the_same_dataset_again(make_plan: MakePlan, pipeline: Path, tmp_path: Path, speed: str) -> None:
    generator = {"pipeline": str(pipeline), "steps": 2, "batch_size": 4, "speed": speed, "attention": "sdpa"}
    plan = make_plan(8, generator=generator)
    for name in "ab":
        work = synthesise_set(plan, str(tmp_path / name), Pool(num_gpus=1), show=False).work
        assert work.images == 24 and 0 < work.computed <= 1
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_complete_dataset_needs_no_generator(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = synthesise_set(make_plan(2), str(tmp_path), show=False)
    monkeypatch.delattr(driver, "locate")
    again = synthesise_set(make_plan(2), str(tmp_path), show=False)
    assert in_process == [0]
    assert again.model_dump() == first.model_dump()


def test_only_the_shard_of_a_missing_marker_is_generated_again(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    before, times = digests(tmp_path), {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tar")}
    (tmp_path / "00002_stats.json").unlink()
    in_process.clear()
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    assert in_process == [2]
    assert digests(tmp_path) == before
    changed = {file.name for file in tmp_path.glob("*.tar") if file.stat().st_mtime_ns != times[file.name]}
    assert changed == {"00002.tar"}


def test_an_extension_keeps_existing_files(in_process: list[int], make_plan: MakePlan, tmp_path: Path) -> None:
    synthesise_set(make_plan(3, shard_size=6), str(tmp_path), show=False)
    before = digests(tmp_path)
    summary = synthesise_set(make_plan(16, shard_size=6), str(tmp_path), show=False)
    after = digests(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"plan.json"}
    assert in_process == list(range(9))
    assert (summary.fewest, summary.most) == (16, 16)
    plan = read_plan(str(tmp_path))
    assert plan is not None and plan.amounts == (3, 16)


@pytest.mark.usefixtures("in_process")
def test_rejects_and_dropped_images_are_summed_up(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(3, shard_size=6, filters=[{"name": "blank", "minimum": 127.5}], attempts=2, keep="drop")
    summary = synthesise_set(plan, str(tmp_path), show=False)
    assert summary.complete and summary.rejects == {"blank": 18}
    assert (summary.images, summary.dropped, summary.empty) == (0, 9, ("cat", "dog", "fir tree"))


def test_filters_that_reject_everything_end_the_run_early(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(100, shard_size=6, filters=[{"name": "blank", "minimum": 127.5}], attempts=4, keep="drop")
    for _ in range(2):  # the second run generates nothing
        with pytest.raises(UserError, match="none of the first 72 images"):
            synthesise_set(plan, str(tmp_path), show=False)
        assert len(in_process) == 3


@pytest.mark.usefixtures("in_process")
def test_actors_in_another_folder_find_relative_paths(
    make_plan: MakePlan, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip_folder(tmp_path / "clip")
    make_lora(GeneratorSettings(pipeline=str(pipeline)), tmp_path / "lora")
    (tmp_path / "worker").mkdir()
    run_pool: Callable[..., Iterator[Report]] = job.run_pool

    def run_elsewhere(*args: Any, **kwargs: Any) -> Iterator[Report]:
        monkeypatch.chdir(tmp_path / "worker")
        return run_pool(*args, **kwargs)

    monkeypatch.setattr(job, "run_pool", run_elsewhere)
    monkeypatch.chdir(tmp_path)
    clip_score = {"name": "clip_score", "top": 3, "backbone": {"name": "clip"}}
    generator = {"pipeline": str(pipeline), "steps": 1, "batch_size": 4, "loras": [{"weights": "lora"}]}
    assert synthesise_set(make_plan(1, filters=[clip_score], generator=generator), "set", show=False).complete
    plan = read_plan(str(tmp_path / "set"))
    assert plan is not None and plan.filters[0].backbone.name == "clip"  # type: ignore[union-attr]
    assert plan.generator.loras[0].weights == "lora"


@pytest.mark.usefixtures("in_process")
def test_another_plan_is_an_error_before_markers_are_read(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesise_set(make_plan(1), str(tmp_path), show=False)
    monkeypatch.delattr(driver, "markers")
    with pytest.raises(UserError, match="generated with different settings"):
        synthesise_set(make_plan(1, seed=1), str(tmp_path), show=False)


def test_shards_committed_while_assets_are_placed_are_not_generated_again(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    marker = (tmp_path / "00002_stats.json").rename(tmp_path / "elsewhere")

    def commit_meanwhile(plan: Plan, url: str) -> Plan:
        marker.rename(tmp_path / "00002_stats.json")
        return plan

    in_process.clear()
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), place_assets=commit_meanwhile, show=False)
    assert in_process == []


def test_shards_without_a_plan_are_an_error(make_plan: MakePlan, tmp_path: Path) -> None:
    write_shard(str(tmp_path), 0, [Sample(0, 0, b"jpeg", "text")])
    with pytest.raises(UserError, match=r"contains shards but no plan\.json"):
        synthesise_set(make_plan(1), str(tmp_path), show=False)
    assert not (tmp_path / "plan.json").exists()


def test_a_run_without_a_committed_shard_leaves_no_plan(
    in_process: list[int], make_plan: MakePlan, pipeline: Path, tmp_path: Path
) -> None:
    generator = {"pipeline": str(tmp_path / "missing"), "batch_size": 4}
    with pytest.raises(UserError, match="the folder doesn't exist"):
        synthesise_set(make_plan(1, generator=generator), str(tmp_path), show=False)
    assert list(tmp_path.iterdir()) == []
    generator |= {"pipeline": str(pipeline), "scheduler": "NoScheduler"}
    with pytest.raises(UserError, match=r"shard 00000.tar could not be generated: .*no scheduler 'NoScheduler'"):
        synthesise_set(make_plan(5, shard_size=4, generator=generator), str(tmp_path), show=False)
    assert in_process == [0]
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
    status = read_status(str(tmp_path))
    assert status is not None and status.state == "failed" and "NoScheduler" in status.reason


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_an_interrupted_run_keeps_its_plan_on_a_cluster_only(
    address: str | None, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Report]:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_pool", interrupted)
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(KeyboardInterrupt):
        synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    assert (read_plan(str(tmp_path)) is not None) == (address is not None)


def test_more_actors_than_cpus_are_an_error(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "local_cpus", lambda: 2)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="3 actors would need 3 CPUs, but only 2 are available; use at most 2"):
        synthesise_set(make_plan(1), str(tmp_path), Pool(3), show=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [(0, 1, 2, 3), (2,), (1, 3)], ids=["new", "one shard", "two shards"])
def test_status_and_summary_show_the_same_throughput(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, missing: tuple[int, ...]
) -> None:
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    for shard in missing:
        (tmp_path / f"{shard:05}_stats.json").unlink()
    summary = synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    status = read_status(str(tmp_path))
    assert status is not None and status.rate > 0
    shown = f" {status.rate:.3g} images/s"
    assert shown in status.lines()[0] and shown in render.summary(summary)
    assert summary.work.images == sum((4, 4, 4, 3)[shard] for shard in missing)


PRICED = CostSettings(price=3600.0, budget=3.5)
"""One per second of an actor."""


def limited(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """Bill one second per shard, and stop before the shard that would exceed the limit; returns the limits."""
    run_pool: Callable[..., Iterator[Report]] = job.run_pool
    calls: list[dict[str, float]] = []

    def run(*args: Any, limit: float, seconds: float, **kwargs: Any) -> Iterator[Report]:
        calls.append({"limit": limit, "seconds": seconds})
        for report in run_pool(*args, **kwargs):
            yield report._replace(billed=1.0)
            limit -= 1.0
            if limit < 1.0:
                raise LimitError

    monkeypatch.setattr(job, "run_pool", run)
    return calls


def test_a_job_stops_at_its_budget_and_resumes_with_a_larger_budget(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(8, shard_size=4)
    synthesise_set(plan, str(tmp_path / "free"), show=False)
    calls, url = limited(monkeypatch), str(tmp_path / "set")
    message = "budget of 3.5 USD reached: 3 of 6 shards are committed; raise synthesis.cost.budget to resume"
    with pytest.raises(BudgetError, match=message):
        synthesise_set(plan, url, cost=PRICED, show=False)
    status = read_status(url)
    assert status is not None
    assert (status.state, status.reason) == ("ended", message)
    assert status.hours * 3600 == pytest.approx(3.0)
    assert "cost: 3.00 of 3.50 USD" in status.lines()
    assert calls == [{"limit": 3.5, "seconds": 0.0}]
    synthesise_set(plan, url, cost=PRICED.model_copy(update={"budget": 9.5}), show=False)
    assert calls[1]["limit"] == pytest.approx(9.5 - 3.0)
    assert in_process == [*range(6), *range(6)]
    assert digests(tmp_path / "set") == digests(tmp_path / "free")
    status = read_status(url)
    assert status is not None and status.state == "complete"
    assert status.hours * 3600 == pytest.approx(6.0)


def test_a_budget_below_the_cost_of_the_first_shard_starts_nothing(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    cost = PRICED.model_copy(update={"throughput": 1.0})  # 4 s per shard and actor
    for actors, budget in ((1, 3.9), (2, 7.9)):
        with pytest.raises(BudgetError, match="0 of 6 shards are committed"):
            priced = cost.model_copy(update={"budget": budget})
            synthesise_set(make_plan(8, shard_size=4), str(tmp_path), Pool(actors), cost=priced, show=False)
    assert in_process == [] and not list(tmp_path.glob("*.json"))


def test_committed_shards_are_billed_without_a_status(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(8, shard_size=4), str(tmp_path), show=False)
    spent = sum(stats.seconds for stats in committed(str(tmp_path)).values())
    for name in ("status.json", "00002_stats.json"):
        (tmp_path / name).unlink()
    in_process.clear()
    with pytest.raises(BudgetError, match="5 of 6 shards are committed"):
        cost = PRICED.model_copy(update={"budget": spent / 2})
        synthesise_set(make_plan(8, shard_size=4), str(tmp_path), cost=cost, show=False)
    assert in_process == []
