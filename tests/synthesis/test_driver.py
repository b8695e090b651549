"""The life of a set, generated inside this process: what Ray adds is tested in test_pool.py and test_faults.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis import driver
from syncclip.synthesis.driver import synthesise_set
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.plan import Plan, read_plan
from syncclip.synthesis.status import read_status
from syncclip.workers import job
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool
from tests.shards.sets import verify
from tests.synthesis.conftest import digests
from tests.synthesis.generators.conftest import make_lora
from tests.worlds.clip import make_clip_folder

MakePlan = Callable[..., Plan]


def test_a_set_is_complete_sound_and_summed_up(in_process: list[int], make_plan: MakePlan, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    summary = synthesise_set(
        make_plan(5, shard_size=4),
        str(tmp_path),
        show=False,
        observe=lambda f: seen.append((f.images, f.busy["generate"])),
    )
    assert in_process == [0, 1, 2, 3]
    assert verify(str(tmp_path)) == []
    assert (summary.complete, summary.images, summary.fewest, summary.most, summary.shards) == (True, 15, 5, 5, 4)
    assert [images for images, _ in seen] == [4, 8, 12, 15]
    assert all(0 < busy <= 1 for _, busy in seen)
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["images"] == 15 and "work" not in written


@pytest.mark.gpu
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_a_gpu_makes_the_same_set_again(make_plan: MakePlan, pipeline: Path, tmp_path: Path, speed: str) -> None:
    generator = {"pipeline": str(pipeline), "steps": 2, "batch_size": 4, "speed": speed, "attention": "sdpa"}
    plan = make_plan(8, generator=generator)
    for name in "ab":
        work = synthesise_set(plan, str(tmp_path / name), Pool(num_gpus=1), show=False).work
        assert work.images == 24 and 0 < work.computed <= 1
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_the_same_call_again_generates_nothing_and_needs_no_generator(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = synthesise_set(make_plan(2), str(tmp_path), show=False)
    monkeypatch.delattr(driver, "locate")
    again = synthesise_set(make_plan(2), str(tmp_path), show=False)
    assert in_process == [0]
    assert again.model_dump() == first.model_dump()


def test_a_missing_marker_costs_its_shard_alone_and_gives_the_same_bytes(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    before, times = digests(tmp_path), {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.tar")}
    (tmp_path / "00002_stats.json").unlink()
    del in_process[:]
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    assert in_process == [2]
    assert digests(tmp_path) == before
    changed = {file.name for file in tmp_path.glob("*.tar") if file.stat().st_mtime_ns != times[file.name]}
    assert changed == {"00002.tar"}


def test_growing_from_3_to_16_only_appends(in_process: list[int], make_plan: MakePlan, tmp_path: Path) -> None:
    synthesise_set(make_plan(3, shard_size=6), str(tmp_path), show=False)
    before = digests(tmp_path)
    summary = synthesise_set(make_plan(16, shard_size=6), str(tmp_path), show=False)
    after = digests(tmp_path)
    assert {name: after[name] for name in before if name != "plan.json"} == {
        name: digest for name, digest in before.items() if name != "plan.json"
    }
    assert in_process == list(range(9))
    assert (summary.fewest, summary.most) == (16, 16)
    plan = read_plan(str(tmp_path))
    assert plan is not None and plan.amounts == (3, 16)


@pytest.mark.usefixtures("in_process")
def test_rejects_and_dropped_images_are_summed_up(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(3, shard_size=6, filters=[{"name": "blank", "minimum": 127.5}], attempts=2, keep="drop")
    summary = synthesise_set(plan, str(tmp_path), show=False)
    assert summary.rejects == {"blank": 18}
    assert (summary.complete, summary.images, summary.dropped, summary.empty) == (
        True,
        0,
        9,
        ("cat", "dog", "fir tree"),
    )


def test_filters_that_reject_everything_end_the_run_early_and_again_at_once(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(100, shard_size=6, filters=[{"name": "blank", "minimum": 127.5}], attempts=4, keep="drop")
    failure = "none of the first 72 images, of class 'cat' and 2 others, passed the filters, most were rejected by"
    with pytest.raises(UserError, match=failure):
        synthesise_set(plan, str(tmp_path), show=False)
    assert len(in_process) == 3  # of 100 shards, each with two images of three classes
    with pytest.raises(UserError, match=failure):
        synthesise_set(plan, str(tmp_path), show=False)
    assert len(in_process) == 3


@pytest.mark.usefixtures("in_process")
def test_actors_in_another_folder_find_the_clip_and_the_lora_weights_of_relative_paths(
    make_plan: MakePlan, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip_folder(tmp_path / "clip")
    make_lora(GeneratorSettings(pipeline=str(pipeline)), tmp_path / "lora")
    (tmp_path / "worker").mkdir()
    generate_here: Callable[..., Iterator[Report]] = job.run_round

    def generate_elsewhere(*arguments: Any, **options: Any) -> Iterator[Report]:
        monkeypatch.chdir(tmp_path / "worker")
        return generate_here(*arguments, **options)

    monkeypatch.setattr(job, "run_round", generate_elsewhere)
    monkeypatch.chdir(tmp_path)
    judge = {"name": "clip_score", "top": 3, "backbone": {"name": "clip"}}
    generator = {"pipeline": str(pipeline), "steps": 1, "batch_size": 4, "loras": [{"weights": "lora"}]}
    assert synthesise_set(make_plan(1, filters=[judge], generator=generator), "set", show=False).complete
    plan = read_plan(str(tmp_path / "set"))
    assert plan is not None and plan.filters[0].backbone.name == "clip"  # type: ignore[union-attr]
    assert plan.generator.loras[0].weights == "lora"


@pytest.mark.usefixtures("in_process")
def test_another_plan_is_an_error_before_markers_are_read(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesise_set(make_plan(1), str(tmp_path), show=False)
    monkeypatch.delattr(driver, "markers")
    with pytest.raises(UserError, match="generated by another plan"):
        synthesise_set(make_plan(1, seed=1), str(tmp_path), show=False)


def test_what_others_commit_while_assets_are_placed_is_not_generated_again(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), show=False)
    marker = (tmp_path / "00002_stats.json").rename(tmp_path / "elsewhere")

    def commit_meanwhile(plan: Plan, url: str) -> Plan:
        marker.rename(tmp_path / "00002_stats.json")
        return plan

    del in_process[:]
    synthesise_set(make_plan(5, shard_size=4), str(tmp_path), place_assets=commit_meanwhile, show=False)
    assert in_process == []


def test_a_generator_that_is_not_there_leaves_no_plan_behind(make_plan: MakePlan, tmp_path: Path) -> None:
    generator = {"pipeline": str(tmp_path / "missing"), "batch_size": 4}
    with pytest.raises(UserError, match="no such folder"):
        synthesise_set(make_plan(1, generator=generator), str(tmp_path / "set"), show=False)
    assert not (tmp_path / "set").exists()


def test_shards_without_a_plan_are_not_added_to(make_plan: MakePlan, tmp_path: Path) -> None:
    write_shard(str(tmp_path), 0, [Sample(0, 0, b"jpeg", "text")])
    with pytest.raises(UserError, match=r"holds shards but no plan\.json"):
        synthesise_set(make_plan(1), str(tmp_path), show=False)
    assert not (tmp_path / "plan.json").exists()


def test_a_run_that_fails_before_its_first_shard_leaves_no_plan_behind(
    in_process: list[int], make_plan: MakePlan, pipeline: Path, tmp_path: Path
) -> None:
    generator = {"pipeline": str(pipeline), "batch_size": 4, "scheduler": "NoScheduler"}
    with pytest.raises(UserError, match=r"shard 00000.tar could not be generated: .*no scheduler 'NoScheduler'"):
        synthesise_set(make_plan(5, shard_size=4, generator=generator), str(tmp_path), show=False)
    assert in_process == [0]
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
    status = read_status(str(tmp_path))
    assert status is not None and status.state == "failed" and "NoScheduler" in status.reason


@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_an_interrupted_generating_keeps_its_plan_only_where_a_cluster_may_go_on(
    address: str | None, in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Report]:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "run_round", interrupted)
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    plan = make_plan(5, shard_size=4)

    with pytest.raises(KeyboardInterrupt):
        synthesise_set(plan, str(tmp_path), show=False)

    assert (read_plan(str(tmp_path)) is not None) == (address is not None)


def test_more_actors_than_cpus_are_errors(make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "local_cpus", lambda: 2)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="3 actors would need 3 CPUs, but there are 2; use at most 2"):
        synthesise_set(make_plan(1), str(tmp_path), Pool(3), show=False)
    assert list(tmp_path.iterdir()) == []
