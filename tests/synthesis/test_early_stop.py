from __future__ import annotations

from collections.abc import Callable

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.markers import ShardStats
from syncclip.synthesis.early_stop import PATIENCE, RejectionMonitor
from syncclip.synthesis.plan import Plan

MakePlan = Callable[..., Plan]
FILTERS = [{"name": "blank"}]


def blank(*labels: int) -> dict[int, str]:
    """Classes of which `blank` rejected all images."""
    return dict.fromkeys(labels, "blank")


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """Three classes, with two images each per shard and up to four attempts."""
    return make_plan(100, shard_size=6, attempts=4, keep="drop", filters=FILTERS)


def take(monitor: RejectionMonitor, shard: int, rejected_by: dict[int, str]) -> None:
    monitor.take(shard, rejected_by)
    monitor.check()


def test_a_class_without_an_accepted_image_ends_the_run(plan: Plan) -> None:
    monitor = RejectionMonitor(plan)
    for shard in range(PATIENCE // 8 - 1):
        take(monitor, shard, blank(1))
    with pytest.raises(UserError, match=r"class 'dog': none of its 64 images passed .* rejected by 'blank'.; loosen"):
        take(monitor, PATIENCE // 8 - 1, blank(1))


def test_one_accepted_image_is_enough(plan: Plan) -> None:
    monitor = RejectionMonitor(plan)
    take(monitor, 0, blank(0))
    for shard in range(1, 100):
        take(monitor, shard, blank(1, 2) if shard > 5 else blank())


def test_with_keep_best_only_a_dataset_without_an_accepted_image_is_an_error(make_plan: MakePlan) -> None:
    plan = make_plan(100, shard_size=6, attempts=4, filters=FILTERS)
    monitor = RejectionMonitor(plan)
    for shard in range(50):
        take(monitor, shard, blank(1, 2))
    monitor = RejectionMonitor(plan)
    take(monitor, 0, blank(0, 1, 2))
    take(monitor, 1, blank(0, 1, 2))
    with pytest.raises(UserError, match="first 72 images .class 'cat' and 2 others. passed"):
        take(monitor, 2, blank(0, 1, 2))


def stats(shard: int, per_class: dict[int, int], rejects: dict[str, int]) -> ShardStats:
    count = sum(per_class.values())
    return ShardStats(
        shard=shard, count=count, bytes=0, sha256="", table_sha256="", per_class=per_class, rejects=rejects
    )


def resumed(plan: Plan, done: list[ShardStats]) -> RejectionMonitor:
    monitor = RejectionMonitor(plan)
    for each in done:
        monitor.take_marker(each)
    return monitor


def test_shards_of_earlier_runs_count(plan: Plan) -> None:
    done = [stats(shard, {0: 2, 1: 2}, {"blank": 3, "clip_score": 8}) for shard in range(8)]
    with pytest.raises(UserError, match=r"class 'fir tree': none of its 64 .* by 'clip_score'"):
        resumed(plan, done).check()
    done[3] = stats(3, {0: 2, 1: 2, 2: 1}, {"blank": 1})
    resumed(plan, done).check()


@pytest.mark.parametrize("size", [4, 5, 7])
def test_images_per_class_of_a_shard_follow_the_plan(size: int, make_plan: MakePlan) -> None:
    plan = make_plan(9, shard_size=size, attempts=1, keep="drop", filters=FILTERS)
    for shard in plan.shards():
        monitor = RejectionMonitor(plan)
        take(monitor, shard, blank(0, 1, 2))
        labels = [plan.entry(index).label for index in plan.shard_range(shard)]
        assert monitor._generated == {label: labels.count(label) for label in set(labels)}
