"""How long a set takes, what it costs and what preemptions throw away, before it starts.

Each actor runs on a machine of its own that may be taken away at any moment: a Poisson process, as clouds describe
their spot machines, so many an hour. A shard in flight is lost then and generated again; another machine comes after a
while. Without preemptions the forecast is exact; with them, the shards and loads that are lost are drawn at random.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from syncclip.core.settings import UserError
from syncclip.synthesis.settings import CostSettings, Pool

if TYPE_CHECKING:
    from syncclip.synthesis.plan import Plan

Array = NDArray[Any]

RUNS = 1000
"""Random runs behind a forecast: the bounds of its 90 % leave out fifty runs on each side."""

HARDEST = math.log(100)
"""Preemptions that one shard may expect. Beyond it fewer than one attempt in a hundred succeeds."""

LOAD = 60.0
"""Seconds to the first shard, where no other time is given."""


class Machines(NamedTuple):
    """The machines of a pool. `least` are there at once, the others come after `wait` seconds; times in seconds."""

    least: int
    most: int
    preemptions: float = 0.0
    """Of a machine, an hour."""
    wait: float = 0.0
    load: float = 0.0


@dataclass(frozen=True)
class Outcomes:
    """What happened in each run, shape (runs,), in seconds."""

    wall: Array
    """From the start to the last commit."""
    paid: Array
    """Of all machines, from each one's coming to its end or the set's."""
    wasted: Array
    """Of work on shards that were then lost."""


class Spread(NamedTuple):
    """What to expect, and bounds that 90 % of runs keep."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What a set is going to take."""

    seconds: float
    """Of an actor, for one shard."""
    quiet: float
    """Seconds from start to end if no machine is taken away."""
    wall: Spread
    """Seconds from start to end."""
    hours: Spread
    """Paid: of GPUs where actors use any, else of actors."""
    money: Spread | None
    wasted: Spread
    """Images that are generated and lost."""
    bytes: float | None


def forecast(plan: Plan, cost: CostSettings, pool: Pool) -> Forecast:
    """What the whole set of a plan takes at `cost.rate`; every shard counts as a full one.

    Raises:
        UserError: hardly any shard would live to its end.
    """
    assert cost.rate is not None
    shards, seconds = len(plan.shards()), min(plan.shard_size, plan.total) / cost.rate
    machines = Machines(*pool.size, cost.preemptions, cost.wait, LOAD if cost.load is None else cost.load)
    outcomes = simulate(shards, seconds, machines)
    hours = _spread(outcomes.paid * (pool.num_gpus or 1.0) / 3600)
    return Forecast(
        seconds,
        quiet_wall(shards, seconds, machines),
        _spread(outcomes.wall),
        hours,
        None if cost.price is None else Spread(*(hour * cost.price for hour in hours)),
        _spread(outcomes.wasted * cost.rate),
        None if cost.image_bytes is None else cost.image_bytes * plan.total,
    )


def _spread(values: Array) -> Spread:
    low, high = np.quantile(values, [0.05, 0.95])
    return Spread(float(values.mean()), float(low), float(high))


def quiet_wall(shards: int, seconds: float, machines: Machines) -> float:
    """When `shards` shards of `seconds` each are done if no machine is taken away."""
    late = machines.most - machines.least

    def done(moment: float) -> int:
        early = math.floor((moment - machines.load) / seconds + 1e-9)
        later = math.floor((moment - machines.load - machines.wait) / seconds + 1e-9)
        return machines.least * early + late * max(0, later)

    ends = []
    for begin in (machines.load, machines.load + machines.wait):  # the last shard ends whole shards after one of them
        rounds = bisect_left(range(shards + 1), shards, key=lambda count: done(begin + count * seconds))
        ends.append(begin + rounds * seconds)
    return min(ends)


def simulate(shards: int, seconds: float, machines: Machines, *, runs: int = RUNS, seed: int = 0) -> Outcomes:
    """Generate `shards` shards of `seconds` each, `runs` times with different luck; a function of `seed`.

    How often shards and loads are lost follows their exact law; all machines share what that costs, and end at moments
    that are spread over the time of one shard. From ten shards a machine on, time and waste, and the bound that 95 % of
    times keep, are those of a queue of events to 5 %; with one or two shards a machine that bound is up to 20 % low.

    Raises:
        UserError: hardly any shard would live to its end.
    """
    assert shards > 0 and seconds > 0 and 0 < machines.least <= machines.most and runs > 0
    rate = machines.preemptions / 3600
    if seconds * rate > HARDEST:
        raise UserError(
            f"a shard takes {seconds:,.0f} s of an actor, and machines live {1 / rate:,.0f} s on average, so hardly "
            "any shard would be finished; make synthesis.shard_size smaller"
        )
    count, wait, load = min(shards, machines.most), machines.wait, machines.load
    machines = machines._replace(least=min(count, machines.least), most=count)
    rng = np.random.default_rng(seed)
    deaths = rng.negative_binomial(shards, math.exp(-rate * seconds), runs)
    loads = rng.negative_binomial(count + deaths, math.exp(-rate * load))  # that a preemption broke
    wasted = _lost(deaths, seconds, rate, rng)
    lost = wasted + deaths * load + _lost(loads, load, rate, rng)
    late = count - machines.least
    even = load + (shards * seconds + late * wait + lost + (deaths + loads) * wait) / count
    uneven = rng.beta(count, 1, runs) - 0.5  # lost shards spread the machines' ends over the time of a shard
    last = rng.binomial(count, -math.expm1(-rate * seconds), runs) > 0  # one of the last shards is lost, others wait
    uneven += last * (1 - 1 / count) * rng.uniform(0, 2 / 3, runs)  # fitted to a queue of events, not derived
    quiet = quiet_wall(shards, seconds, machines)
    wall = np.where(deaths + loads > 0, np.maximum(quiet, even + seconds * uneven), quiet)
    paid = machines.least * wall + late * np.maximum(0.0, wall - wait) - (deaths + loads) * wait
    return Outcomes(wall, np.maximum(paid, shards * seconds + wasted), wasted)


def _lost(times: Array, span: float, rate: float, rng: np.random.Generator) -> Array:
    """Seconds lost by so many preemptions that each came within `span` seconds: their sum, taken as normal."""
    x = rate * span
    if x < 1e-3:
        mean, variance = span / 2, span**2 / 12
    else:
        mean = 1 / rate - span / math.expm1(x)
        variance = 1 / rate**2 - span**2 * math.exp(x) / math.expm1(x) ** 2
    drawn = times * mean + np.sqrt(times * variance) * rng.standard_normal(times.shape)
    return np.clip(drawn, 0.0, times * span)
