"""The forecast against what can be computed by hand, and against a plain queue of events."""

from __future__ import annotations

import heapq
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from syncclip.core.settings import UserError
from syncclip.synthesis.forecast import Machines, forecast, simulate
from syncclip.synthesis.plan import draft
from syncclip.synthesis.settings import CostSettings, SynthesisSettings
from syncclip.workers.settings import Pool

MANY = 20_000


@pytest.mark.parametrize(("shards", "rounds"), [(1, 1), (4, 1), (5, 2), (403, 101)])
def test_without_preemptions_it_is_exact(shards: int, rounds: int) -> None:
    outcomes = simulate(shards, 2.5, Machines(4, 4, load=7.0), runs=3)
    machines = min(4, shards)
    assert outcomes.wall == pytest.approx([7.0 + 2.5 * rounds] * 3)
    assert outcomes.paid == pytest.approx([machines * (7.0 + 2.5 * rounds)] * 3)
    assert not outcomes.wasted.any()


def test_machines_above_the_least_come_later() -> None:
    outcomes = simulate(10, 10.0, Machines(1, 3, wait=25.0, load=5.0), runs=1)
    # One generates at 5, 15, 25 and on, the others from 30 on: 3 shards are begun by one, then the last 7 by three.
    assert outcomes.wall == pytest.approx([60.0])
    assert outcomes.paid == pytest.approx([60.0 + 2 * 35.0])


@pytest.mark.parametrize(("shards", "count"), [(10_000, 8), (60_000, 250)])
def test_many_shards_on_many_machines_take_what_the_closed_form_says(shards: int, count: int) -> None:
    shard, wait, load = 60.0, 40.0, 10.0
    a = 20.0 / 3600
    alive = (math.exp(a * shard) - 1) / a  # generating one shard, attempts in vain included
    loads = (math.exp(a * load) - 1) / a  # loading until it succeeds
    deaths = a * alive * (1 + a * loads)  # of one shard: those in generating, and those in loading after them
    outcomes = simulate(shards, shard, Machines(count, count, 20.0, wait, load), runs=40)
    assert outcomes.wasted.mean() == pytest.approx(shards * (alive - shard), rel=0.01)
    paid = shards * (alive + a * alive * loads)
    assert outcomes.paid.mean() == pytest.approx(paid, rel=0.01)
    assert outcomes.wall.mean() == pytest.approx((paid + shards * deaths * wait) / count, rel=0.01)


@pytest.mark.parametrize(
    ("shards", "least", "most", "rate"),
    [
        (3, 3, 3, 30.0),
        (10, 3, 3, 30.0),
        (10, 10, 10, 30.0),
        (10, 4, 4, 30.0),
        (40, 6, 6, 30.0),
        (40, 2, 6, 30.0),
        (100, 8, 8, 6.0),
        (100, 10, 10, 60.0),
        (600, 16, 16, 20.0),
    ],
)
def test_it_agrees_with_a_plain_queue_of_events(shards: int, least: int, most: int, rate: float) -> None:
    seconds, pool = 60.0, Machines(least, most, rate, 40.0, 10.0)
    luck = random.Random(1)
    walls, wasted = zip(*(one_run(shards, seconds, pool, luck) for _ in range(40_000 // shards)), strict=True)
    outcomes = simulate(shards, seconds, pool, runs=4_000)
    assert outcomes.wasted.mean() == pytest.approx(np.mean(wasted), rel=0.05)
    assert outcomes.wall.mean() == pytest.approx(np.mean(walls), rel=0.03)
    assert np.quantile(outcomes.wall, 0.95) == pytest.approx(np.quantile(walls, 0.95), rel=0.05)


def one_run(shards: int, seconds: float, pool: Machines, luck: random.Random) -> tuple[float, float]:
    """(time of the last commit, seconds wasted) of one run, told event by event."""
    rate = pool.preemptions / 3600
    events: list[tuple[float, str, int, int]] = []
    lives = dict.fromkeys(range(pool.most), 0)  # how often each was replaced: later events of an old one are void
    idle: set[int] = set()
    begun: dict[int, float] = {}
    left, done, wasted = shards, 0, 0.0

    def come(machine: int, time: float) -> None:
        heapq.heappush(events, (time + luck.expovariate(rate), "death", machine, lives[machine]))
        heapq.heappush(events, (time + pool.load, "free", machine, lives[machine]))

    def generate(machine: int, time: float) -> None:
        nonlocal left
        idle.discard(machine)
        if left == 0:
            idle.add(machine)
            return
        left -= 1
        begun[machine] = time
        heapq.heappush(events, (time + seconds, "commit", machine, lives[machine]))

    for machine in lives:
        come(machine, 0.0 if machine < pool.least else pool.wait)
    while True:
        time, event, machine, life = heapq.heappop(events)
        if life != lives[machine]:
            continue
        if event == "commit":
            del begun[machine]
            done += 1
            if done == shards:
                return time, wasted
        if event != "death":
            generate(machine, time)
            continue
        lives[machine] += 1
        idle.discard(machine)
        come(machine, time + pool.wait)
        if machine in begun:
            wasted += time - begun.pop(machine)
            left += 1
            if idle:
                generate(min(idle), time)


def test_a_seed_decides_all_and_another_changes_it() -> None:
    pool = Machines(2, 5, 10.0, 60.0, 30.0)
    one, same, other = (simulate(200, 30.0, pool, runs=20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.wall, same.wall) and np.array_equal(one.wasted, same.wasted)
    assert not np.array_equal(one.wall, other.wall)


def test_nothing_ends_before_all_is_generated_and_nobody_generates_unpaid() -> None:
    outcomes = simulate(50, 30.0, Machines(1, 8, 40.0, 60.0, 30.0), runs=500)
    assert (outcomes.wall >= 30.0 + 50 * 30.0 / 8).all()
    assert (outcomes.paid >= 50 * 30.0 + outcomes.wasted).all()
    assert (outcomes.paid <= 8 * outcomes.wall).all()


def test_shards_that_hardly_ever_live_to_their_end_are_errors() -> None:
    with pytest.raises(UserError, match=r"takes 3,600 s of an actor, and machines live 720 s .*shard_size smaller"):
        simulate(10, 3600.0, Machines(1, 1, 5.0))


def test_ten_million_images_are_forecast_with_hours_and_money() -> None:
    asked = SynthesisSettings(images_per_class=10_000, shard_size=1000, generator={"batch_size": 8})
    plan = draft(asked, dataset="large", classnames=[f"class {i}" for i in range(1000)], template="a {}.")
    cost = CostSettings(throughput=2.0, image_bytes=50_000, price=0.5, preemptions=0.1, wait=120, load=60)
    found = forecast(plan, cost, Pool(8, 64, 1.0))
    assert found.seconds == 500.0
    least = 10_000_000 / 2.0 / 3600
    assert least < found.hours.low < found.hours.mean < found.hours.high < 1.03 * least
    assert found.money is not None and found.money.mean == pytest.approx(found.hours.mean * 0.5)
    assert found.quiet < found.wall.mean < 1.05 * found.quiet
    assert found.bytes == 5e11
    a = 0.1 / 3600
    waste = (math.exp(a * 500) - 1) / a - 500
    assert found.wasted.mean == pytest.approx(10_000 * waste * 2.0, rel=0.02)


def test_half_a_gpu_an_actor_costs_half_and_a_set_without_a_price_has_no_bill() -> None:
    asked = SynthesisSettings(images_per_class=4, shard_size=8, generator={"batch_size": 8})
    plan = draft(asked, dataset="small", classnames=["cat", "dog"], template="a {}.")
    whole, half = (forecast(plan, CostSettings(throughput=1.0, load=0), Pool(num_gpus=gpus)) for gpus in (1.0, 0.5))
    assert (whole.hours.mean, half.hours.mean) == pytest.approx((8 / 3600, 4 / 3600))
    assert whole.money is None and whole.bytes is None


@pytest.mark.parametrize(
    "change",
    [
        {"load": 1e8, "preemptions": 0.1},
        {"preemptions": 1e6},
        {"preemptions": 100.0, "load": 60.0},
        {"throughput": 1e6, "preemptions": 10.0},
        {"throughput": 1e-9, "preemptions": 1e-3},
    ],
)
def test_what_would_take_for_ever_to_forecast_is_an_error(change: dict[str, float]) -> None:
    plan = SimpleNamespace(shards=lambda: range(4_000_000), shard_size=64, total=256_000_000)
    cost = CostSettings(**{"throughput": 1.0, "load": 60.0, **change})
    with pytest.raises(UserError, match="hardly any shard|can't be forecast"):
        forecast(plan, cost, Pool(1, 10_000))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["throughput", "image_bytes", "price", "preemptions", "wait", "load"])
@pytest.mark.parametrize("value", [1e308, math.inf, math.nan, -1.0])
def test_costs_that_no_cloud_has_are_errors(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        CostSettings.model_validate({key: value})
