"""Jobs that generate different shards of the same dataset."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.synthesis import driver
from syncclip.synthesis.driver import has_all, synthesise_part, synthesise_set
from syncclip.synthesis.plan import Plan, parse_shards
from syncclip.synthesis.settings import CostSettings
from syncclip.synthesis.status import STATUS_NAME, part_names, read_status, status_name
from tests.object_store import s3_bucket

MakePlan = Callable[..., Plan]


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of the dataset."""
    if request.param == "s3":
        with s3_bucket() as bucket:
            yield f"{bucket}/set"
    else:
        yield str(tmp_path / "set")


def contents(url: str) -> dict[str, str]:
    """Name -> SHA-256 of all files that don't contain times."""
    names = [name for name in storage.listdir(url) if not name.endswith(("_stats.json", "index.json", "status.json"))]
    names = [name for name in names if name != "summary.json" and not name.startswith("markers-")]
    files = {name: storage.read_bytes(storage.join(url, name)) for name in names}
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_three_jobs_generate_the_dataset_of_a_single_job(
    in_process: list[int], make_plan: MakePlan, url: str, tmp_path: Path
) -> None:
    plan, single = make_plan(5, shard_size=4), str(tmp_path / "single")
    synthesise_set(plan, single, show=False)
    in_process.clear()
    for part in (range(2, 4), range(1), range(1, 2)):
        assert not has_all(plan, url)
        synthesise_part(plan, url, part, show=False)
    assert in_process == [2, 3, 0, 1]
    status = read_status(url)
    assert status is not None and (status.state, status.images, status.planned) == ("complete", 15, 15)
    assert len(part_names(url)) == 3
    summary = synthesise_set(plan, url, show=False)
    assert summary.complete and summary.images == 15 and in_process == [2, 3, 0, 1]
    assert contents(url) == contents(single)
    assert part_names(url) == [] and storage.exists(storage.join(url, STATUS_NAME))


def test_a_part_is_completed_by_the_same_command(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(5, shard_size=4)
    generate = driver.run_job

    def interrupted(job: driver._Job, todo: list[int], *arguments: object, **options: object) -> Iterator[object]:
        yield from generate(job, todo[:1], *arguments, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(driver, "run_job", interrupted)
        synthesise_part(plan, str(tmp_path), range(1, 4), show=False)
    synthesise_part(plan, str(tmp_path), range(1, 4), show=False)
    assert in_process == [1, 2, 3]


def test_jobs_with_the_same_shards_exclude_each_other(
    in_process: list[int], make_plan: MakePlan, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, errors = make_plan(5, shard_size=4), list[BaseException | None]()
    generate = driver._generate

    def beside(job: driver._Job, *arguments: object) -> object:
        monkeypatch.setattr(driver, "_generate", generate)
        with ThreadPoolExecutor(1) as threads:  # locks are reused within a thread
            for other in (range(2), range(1, 4), range(3), range(2, 4)):
                errors.append(threads.submit(synthesise_part, plan, url, other, show=False).exception())
            errors.append(threads.submit(synthesise_set, plan, url, show=False).exception())
        return generate(job, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(driver, "_generate", beside)
    synthesise_part(plan, url, range(2), show=False)
    assert errors.pop(3) is None, "other shards"
    for error in errors:
        assert isinstance(error, UserError) and "`synth --shards 0:2` of " in str(error), error
    assert in_process == [2, 3, 0, 1]


def test_a_part_has_its_own_budget(in_process: list[int], make_plan: MakePlan, tmp_path: Path) -> None:
    """At 1 image/s, the first job costs 8 s at most, and the second job is not charged for the first."""
    plan, cost = make_plan(5, shard_size=4), CostSettings(price=3600.0, budget=8.0, throughput=1.0)
    for part in (range(2), range(2, 4)):
        synthesise_part(plan, str(tmp_path), part, cost=cost, show=False)
        status, path = read_status(str(tmp_path), name=status_name(part)), str(tmp_path / status_name(part))
        assert status is not None
        billed = status.model_copy(update={"hours": 8.0 / 3600})
        storage.write_document(path, billed, owner=storage.read_owner(path))
    (tmp_path / "00003_stats.json").unlink()
    with pytest.raises(UserError, match="budget of 8 USD reached: 1 of 2 shards are committed"):
        synthesise_part(plan, str(tmp_path), range(2, 4), cost=cost, show=False)
    assert in_process == [0, 1, 2, 3]


def test_parts_and_a_single_job_store_the_same_groups_of_markers(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("shards.markers", "synthesis.driver"):
        monkeypatch.setattr(f"syncclip.{module}.GROUP", 2)
    plan, url = make_plan(6, shard_size=4), str(tmp_path / "parts")
    for part in (range(1), range(1, 3), range(3, 5)):  # the first group belongs to two parts
        synthesise_part(plan, url, part, show=False)
    synthesise_set(plan, url, show=False)
    synthesise_set(plan, str(tmp_path / "single"), show=False)
    groups = [[*(tmp_path / name).glob("markers-*.json")] for name in ("parts", "single")]
    assert [path.name for path in sorted(groups[0])] == [path.name for path in sorted(groups[1])]
    assert len(groups[0]) == 3 and contents(url).keys() == contents(str(tmp_path / "single")).keys()


def test_a_resumed_job_generates_files_that_were_removed_after_their_markers_were_stored(
    in_process: list[int], make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("shards.markers", "synthesis.driver"):
        monkeypatch.setattr(f"syncclip.{module}.GROUP", 2)
    plan = make_plan(8, shard_size=4)
    with s3_bucket() as bucket:
        url = f"{bucket}/set"
        synthesise_set(plan, url, show=False)
        before = contents(url)
        for name in ("index.json", "00001.tar", "00005_stats.json", "markers-00002.json"):
            storage.remove(f"{url}/{name}")
        in_process.clear()
        synthesise_set(plan, url, show=False)
        assert in_process == [5, 1] and contents(url) == before
        storage.remove(f"{url}/00000.tar")
        synthesise_set(plan, url, show=False)
        assert in_process == [5, 1, 0] and contents(url) == before


def test_the_total_status_includes_lost_jobs_and_shards_without_a_job(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, url = make_plan(6, shard_size=4), str(tmp_path)
    for part in (range(2), range(2, 4)):
        synthesise_part(plan, url, part, show=False)
    status = read_status(url)
    assert status is not None
    assert (status.state, status.images, status.planned, status.rate) == ("interrupted", 16, 18, 0)
    assert status.reason == "no job generates the other shards"
    path = str(tmp_path / status_name(range(2, 4)))
    for silence, state in ((0.0, "running"), (1000.0, "interrupted")):
        job = read_status(url, name=status_name(range(2, 4)))
        assert job is not None
        update = {"state": "running", "rate": 3.0, "actors": 2, "seen": time.time() - silence, "budget": 4.0}
        storage.write_document(path, job.model_copy(update=update), owner=plan.owner)
        status = read_status(url)
        assert status is not None and status.state == state
        assert (status.rate, status.actors) == ((3.0, 2) if state == "running" else (0.0, 0))
        assert status.budget is None, "the other job has none"
    assert status.reason == "no heartbeat from the job of status-00002-00004.json for 16 min 40 s"


def test_hours_of_earlier_and_replaced_jobs_are_billed_once(
    in_process: list[int], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, url = make_plan(8, shard_size=4), str(tmp_path)

    def set_hours(name: str, hours: float) -> None:
        status = read_status(url, name=name)
        assert status is not None
        owner = storage.read_owner(str(tmp_path / name))
        storage.write_document(str(tmp_path / name), status.model_copy(update={"hours": hours}), owner)

    def hours() -> float:
        status = read_status(url)
        assert status is not None
        return round(status.hours, 2)

    synthesise_set(make_plan(2, shard_size=4), url, show=False)
    set_hours(STATUS_NAME, 10.0)
    synthesise_part(plan, url, range(6), show=False)
    assert hours() == 10.0, "the first job's shards are billed once"
    set_hours(status_name(range(6)), 5.0)
    (tmp_path / "00004_stats.json").unlink()
    synthesise_part(plan, url, range(4, 7), show=False)  # replaces the job of 0:6
    assert part_names(url) == [status_name(range(4, 7))] and hours() == 15.0
    synthesise_set(plan, url, show=False)
    assert part_names(url) == [] and hours() == 15.0


@pytest.mark.parametrize(
    ("text", "shards", "expected"),
    [
        ("0:50000", 100_000, range(50_000)),
        ("3/8", 80_500, range(20_000, 30_000)),
        ("8/8", 80_500, range(70_000, 80_500)),
        ("2/3", 10, range(3, 6)),
        ("1/1", 1, range(1)),
    ],
)
def test_a_range_of_shards_is_parsed(text: str, shards: int, expected: range) -> None:
    assert parse_shards(text, shards) == expected


@pytest.mark.parametrize("text", ["5:2", "0:13", "0/3", "4/3", "13/13", "2", "a:b", "-1:2", ""])
def test_an_invalid_range_of_shards_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="not a range of the plan's 12 shards; use FIRST:END, such as 0:12, or PART"):
        parse_shards(text, 12)


@pytest.mark.parametrize(("shards", "parts"), [(12, 5), (4_000, 3), (3_001, 3), (50_000, 7)])
def test_parts_are_disjoint_and_complete(shards: int, parts: int) -> None:
    ranges = [parse_shards(f"{part}/{parts}", shards) for part in range(1, parts + 1)]
    assert [shard for each in ranges for shard in each] == [*range(shards)]
