"""The forecast compared with exact results and with an event-by-event simulation."""

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


@pytest.mark.parametrize(("shards", "rounds"), [(1, 1), (4, 1), (5, 2), (403, 101)])
def test_without_preemptions_the_forecast_is_exact(shards: int, rounds: int) -> None:
    outcomes = simulate(shards, 2.5, Machines(4, 4, load=7.0), runs=3)
    machines = min(4, shards)
    assert outcomes.wall == pytest.approx([7.0 + 2.5 * rounds] * 3)
    assert outcomes.paid == pytest.approx([machines * (7.0 + 2.5 * rounds)] * 3)
    assert not outcomes.wasted.any()


def test_machines_of_a_growing_pool_start_later() -> None:
    outcomes = simulate(10, 10.0, Machines(1, 3, wait=25.0, load=5.0), runs=1)
    # One machine starts shards at 5, 15 and 25; from 30 on, three machines generate the last 7.
    assert outcomes.wall == pytest.approx([60.0])
    assert outcomes.paid == pytest.approx([60.0 + 2 * 35.0])


@pytest.mark.parametrize(("shards", "count"), [(10_000, 8), (60_000, 250)])
def test_means_of_many_shards_agree_with_a_closed_form(shards: int, count: int) -> None:
    shard, wait, load = 60.0, 40.0, 10.0
    rate = 20.0 / 3600
    generating = (math.exp(rate * shard) - 1) / rate  # per shard, including failed attempts
    loading = (math.exp(rate * load) - 1) / rate  # per replacement, including failed attempts
    preemptions = rate * generating * (1 + rate * loading)  # per shard
    outcomes = simulate(shards, shard, Machines(count, count, 20.0, wait, load), runs=40)
    assert outcomes.wasted.mean() == pytest.approx(shards * (generating - shard), rel=0.01)
    paid = shards * (generating + rate * generating * loading)
    assert outcomes.paid.mean() == pytest.approx(paid, rel=0.01)
    assert outcomes.wall.mean() == pytest.approx((paid + shards * preemptions * wait) / count, rel=0.01)


@pytest.mark.parametrize(
    ("shards", "least", "most", "rate"),
    [
        (3, 3, 3, 30.0),
        (10, 3, 3, 30.0),
        (10, 10, 10, 30.0),
        (40, 6, 6, 30.0),
        (40, 2, 6, 30.0),
        (100, 8, 8, 6.0),
        (100, 10, 10, 60.0),
        (600, 16, 16, 20.0),
    ],
)
def test_the_forecast_agrees_with_a_simulation_of_events(shards: int, least: int, most: int, rate: float) -> None:
    seconds, pool = 60.0, Machines(least, most, rate, 40.0, 10.0)
    rng = random.Random(1)
    walls, wasted = zip(*(one_run(shards, seconds, pool, rng) for _ in range(40_000 // shards)), strict=True)
    outcomes = simulate(shards, seconds, pool, runs=4_000)
    assert outcomes.wasted.mean() == pytest.approx(np.mean(wasted), rel=0.05)
    assert outcomes.wall.mean() == pytest.approx(np.mean(walls), rel=0.03)
    assert np.quantile(outcomes.wall, 0.95) == pytest.approx(np.quantile(walls, 0.95), rel=0.05)


def one_run(shards: int, seconds: float, pool: Machines, rng: random.Random) -> tuple[float, float]:
    """Simulate a run event by event; returns the time of the last commit and the seconds wasted."""
    rate = pool.preemptions / 3600
    events: list[tuple[float, str, int, int]] = []
    replaced = dict.fromkeys(range(pool.most), 0)  # machine -> replacements; events of earlier ones are ignored
    idle: set[int] = set()
    begun: dict[int, float] = {}
    left, done, wasted = shards, 0, 0.0

    def start(machine: int, time: float) -> None:
        heapq.heappush(events, (time + rng.expovariate(rate), "death", machine, replaced[machine]))
        heapq.heappush(events, (time + pool.load, "free", machine, replaced[machine]))

    def generate(machine: int, time: float) -> None:
        nonlocal left
        idle.discard(machine)
        if left == 0:
            idle.add(machine)
            return
        left -= 1
        begun[machine] = time
        heapq.heappush(events, (time + seconds, "commit", machine, replaced[machine]))

    for machine in replaced:
        start(machine, 0.0 if machine < pool.least else pool.wait)
    while True:
        time, event, machine, number = heapq.heappop(events)
        if number != replaced[machine]:
            continue
        if event == "commit":
            del begun[machine]
            done += 1
            if done == shards:
                return time, wasted
        if event != "death":
            generate(machine, time)
            continue
        replaced[machine] += 1
        idle.discard(machine)
        start(machine, time + pool.wait)
        if machine in begun:
            wasted += time - begun.pop(machine)
            left += 1
            if idle:
                generate(min(idle), time)


def test_outcomes_are_deterministic_and_within_bounds() -> None:
    pool = Machines(1, 8, 40.0, 60.0, 30.0)
    first, same, other = (simulate(50, 30.0, pool, runs=500, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.wall, same.wall) and np.array_equal(first.wasted, same.wasted)
    assert not np.array_equal(first.wall, other.wall)
    assert (first.wall >= 30.0 + 50 * 30.0 / 8).all()
    assert (first.paid >= 50 * 30.0 + first.wasted).all()
    assert (first.paid <= 8 * first.wall).all()


def test_hours_and_cost_of_ten_million_images() -> None:
    settings = SynthesisSettings(images_per_class=10_000, shard_size=1000, generator={"batch_size": 8})
    plan = draft(settings, dataset="large", classnames=[f"class {i}" for i in range(1000)], template="a {}.")
    cost = CostSettings(throughput=2.0, image_bytes=50_000, price=0.5, preemptions=0.1, wait=120, load=60)
    result = forecast(plan, cost, Pool(8, 64, 1.0))
    assert result.seconds == 500.0
    minimum = 10_000_000 / 2.0 / 3600
    assert minimum < result.hours.low < result.hours.mean < result.hours.high < 1.03 * minimum
    assert result.money is not None and result.money.mean == pytest.approx(result.hours.mean * 0.5)
    assert result.quiet < result.wall.mean < 1.05 * result.quiet
    assert result.bytes == 5e11
    rate = 0.1 / 3600
    assert result.wasted.mean == pytest.approx(10_000 * ((math.exp(rate * 500) - 1) / rate - 500) * 2.0, rel=0.02)


def test_gpu_shares_are_billed_and_cost_needs_a_price() -> None:
    settings = SynthesisSettings(images_per_class=4, shard_size=8, generator={"batch_size": 8})
    plan = draft(settings, dataset="small", classnames=["cat", "dog"], template="a {}.")
    full, half = (forecast(plan, CostSettings(throughput=1.0, load=0), Pool(num_gpus=gpus)) for gpus in (1.0, 0.5))
    assert (full.hours.mean, half.hours.mean) == pytest.approx((8 / 3600, 4 / 3600))
    assert full.money is None and full.bytes is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"load": 1e8, "preemptions": 0.1}, "hardly any shard"),
        ({"preemptions": 1e6}, "64 s per shard, but is preempted after 0 s on average, so hardly any shard"),
        ({"preemptions": 100.0, "load": 60.0}, "take too long to simulate"),
        ({"throughput": 1e6, "preemptions": 10.0}, "take too long to simulate"),
        ({"throughput": 1e-9, "preemptions": 1e-3}, "hardly any shard"),
    ],
)
def test_a_forecast_that_would_not_end_is_an_error(values: dict[str, float], message: str) -> None:
    plan = SimpleNamespace(shards=lambda: range(4_000_000), shard_size=64, total=256_000_000)
    cost = CostSettings(**{"throughput": 1.0, "load": 60.0, **values})
    with pytest.raises(UserError, match=message):
        forecast(plan, cost, Pool(1, 10_000))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["throughput", "image_bytes", "price", "preemptions", "wait", "load"])
@pytest.mark.parametrize("value", [1e308, math.inf, math.nan, -1.0])
def test_unrealistic_costs_are_errors(key: str, value: float) -> None:
    with pytest.raises(ValidationError, match=key):
        CostSettings.model_validate({key: value})
