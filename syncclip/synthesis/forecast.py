"""Simulation that forecasts the time, cost and lost images of a synthesis run on preemptible machines.

Each actor has its own machine, which is preempted at a constant rate (a Poisson process) and replaced after a delay.
A shard interrupted by a preemption is regenerated. Without preemptions, the forecast is exact.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from syncclip.core.settings import UserError
from syncclip.synthesis.settings import CostSettings
from syncclip.workers.settings import Pool

if TYPE_CHECKING:
    from syncclip.synthesis.plan import Plan

Array = NDArray[Any]

MAX_RUNS, MIN_RUNS = 1000, 20
"""Maximum and minimum number of simulated runs."""

MAX_WORK, STEP_COST = 5e7, 4000.0
"""Budget of a forecast and overhead per simulation step, both in units of simulating one machine for one step."""

MAX_EXPECTED_PREEMPTIONS = math.log(100)
"""Expected number of preemptions per attempt (loading and one shard) above which fewer than 1 % of attempts succeed."""

NEGLIGIBLE_RATE = 1e-18
"""Preemption rate per second used in place of zero."""

LOAD_SECONDS = 60.0
"""Default time from a machine's start to its first shard, in seconds."""


class Machines(NamedTuple):
    """Machines in a pool: `least` machines start immediately, and the others after `wait`. Times are in seconds."""

    least: int
    most: int
    preemptions: float = 0.0
    """Preemptions per machine-hour."""
    wait: float = 0.0
    load: float = 0.0


class Outcomes(NamedTuple):
    """Times of the simulated runs in seconds, as arrays with shape (runs,)."""

    wall: Array
    """Time from the start to the last commit."""
    paid: Array
    """Total time of all machines, from each machine's start to its preemption or the last commit."""
    wasted: Array
    """Time spent on lost shards."""


class Spread(NamedTuple):
    """Mean, 5th percentile and 95th percentile over the simulated runs."""

    mean: float
    low: float
    high: float


class Forecast(NamedTuple):
    """Estimated time, cost and number of lost images for generating a dataset."""

    seconds: float
    """Seconds per shard on one actor."""
    quiet: float
    """Wall time without preemptions, in seconds."""
    wall: Spread
    """Wall time in seconds."""
    hours: Spread
    """Billed GPU-hours or, without GPUs, actor-hours."""
    money: Spread | None
    wasted: Spread
    """Number of generated images lost to preemptions."""
    bytes: float | None


def forecast(plan: Plan, cost: CostSettings, pool: Pool) -> Forecast:
    """Forecast the time and cost of generating a plan's images at `cost.throughput`, assuming that all shards are full.

    Raises:
        UserError: hardly any shards would finish, or the simulation would be too expensive.
    """
    assert cost.throughput is not None
    shards, seconds = len(plan.shards()), min(plan.shard_size, plan.total) / cost.throughput
    load = LOAD_SECONDS if cost.load is None else cost.load
    machines = Machines(*pool.size, cost.preemptions, cost.wait, load)
    quiet = simulate(shards, seconds, machines._replace(preemptions=0.0), runs=1)
    outcomes = simulate(shards, seconds, machines, runs=_affordable_runs(shards, seconds, machines))
    hours = _spread(pool.billed_hours(outcomes.paid))
    return Forecast(
        seconds,
        float(quiet.wall[0]),
        _spread(outcomes.wall),
        hours,
        None if cost.price is None else Spread(*(hour * cost.price for hour in hours)),
        _spread(outcomes.wasted * cost.throughput),
        None if cost.image_bytes is None else cost.image_bytes * plan.total,
    )


def _affordable_runs(shards: int, seconds: float, machines: Machines) -> int:
    """Return the number of runs to simulate; pools of over 100 machines need fewer, since preemptions average out."""
    count = min(shards, machines.most)
    rate = _checked_rate(seconds, machines)
    attempts = math.exp(rate * (seconds + machines.load))
    deviation = _per_shard(rate, seconds, machines)[1]
    steps = attempts * min(shards, count * (2 + 3 * deviation * math.sqrt(shards / count)))  # after `skip`
    limit = min(MAX_RUNS, max(100, 100 * MAX_RUNS // machines.most))
    runs = min(limit, int((MAX_WORK / steps - STEP_COST) / count))
    if runs < MIN_RUNS:
        raise UserError(
            f"{count:,} machines with {machines.preemptions:g} preemptions per machine-hour take too long to "
            "simulate; reduce synthesis.actors or synthesis.cost.preemptions"
        )
    return runs


def _spread(values: Array) -> Spread:
    low, high = np.quantile(values, [0.05, 0.95])
    return Spread(float(values.mean()), float(low), float(high))


def simulate(shards: int, seconds: float, machines: Machines, *, runs: int = MAX_RUNS, seed: int = 0) -> Outcomes:
    """Simulate `runs` runs of `shards` shards, each taking `seconds`; deterministic for a given `seed`."""
    assert shards > 0 and seconds > 0 and 0 < machines.least <= machines.most and runs > 0
    rate = _checked_rate(seconds, machines)
    arrivals = np.where(np.arange(min(shards, machines.most)) < machines.least, 0.0, machines.wait)
    rng = np.random.default_rng(seed)
    queue = _Queue(shards, seconds, machines, rate, np.tile(arrivals, (runs, 1)), rng)
    queue.skip()
    wall = queue.finish()
    end = wall[:, None]
    away = queue.away - np.maximum(0.0, queue.born - end) + np.clip(end - queue.death, 0.0, machines.wait)
    return Outcomes(wall, (end - arrivals - away).sum(1), queue.wasted)


def _checked_rate(seconds: float, machines: Machines) -> float:
    """Return the preemption rate per machine-second; raise a UserError if hardly any shards would finish."""
    rate = machines.preemptions / 3600 or NEGLIGIBLE_RATE
    if (seconds + machines.load) * rate > MAX_EXPECTED_PREEMPTIONS:
        raise UserError(
            f"a machine needs {machines.load:,.0f} s to load and {seconds:,.0f} s per shard, but is preempted after "
            f"{1 / rate:,.0f} s on average, so hardly any shards would finish; reduce synthesis.shard_size, "
            "synthesis.cost.load or synthesis.cost.preemptions"
        )
    return rate


def _per_shard(rate: float, seconds: float, machines: Machines) -> tuple[float, float]:
    """Return a machine's mean time per shard in seconds, including lost time, and its relative standard deviation."""
    deaths, reloads = math.expm1(rate * seconds), math.expm1(rate * machines.load)
    mean = deaths * (1 / rate + machines.wait + reloads * (machines.wait + 1 / rate))
    return mean, 0.0 if rate == NEGLIGIBLE_RATE else (1 - seconds / mean) * math.sqrt(1 + 2 / deaths)


class _Queue:
    """Common state of all simulated runs. Arrays have shape (runs, machines) or (runs,); times are in seconds."""

    def __init__(
        self, shards: int, seconds: float, machines: Machines, rate: float, arrivals: Array, rng: np.random.Generator
    ) -> None:
        self.seconds, self.wait, self.load, self.rate, self.rng = seconds, machines.wait, machines.load, rate, rng
        self.left = np.full(len(arrivals), shards)  # shards not started
        self.wasted = np.zeros(len(arrivals))
        self.away = np.zeros(arrivals.shape)  # time spent waiting for replacements
        self.born = arrivals
        self.free = arrivals + machines.load  # ready for the next shard
        self.death = arrivals + rng.exponential(1 / rate, arrivals.shape)

    def skip(self) -> None:
        """Advance each machine by its expected number of shards minus three standard deviations.

        While unstarted shards remain, shard durations do not depend on other machines, so their sums can be sampled.
        """
        rate, seconds, wait, load = self.rate, self.seconds, self.wait, self.load
        while (broken := self.death < self.free).any():
            self._replace(*broken.nonzero())
        deaths, reloads = math.expm1(rate * seconds), math.expm1(rate * load)  # per shard, per replacement
        mean, deviation = _per_shard(rate, seconds, Machines(1, 1, 0.0, wait, load))
        while True:
            ends = (self.left[:, None] * mean + np.sort(self.free).cumsum(1)) / np.arange(1, self.free.shape[1] + 1)
            share = np.maximum(0.0, (ends.min(1, keepdims=True) - self.free) / mean)
            count = np.maximum(0.0, np.floor(share - 3 * deviation * np.sqrt(share) - 1)).astype(int)
            if count.mean() < 1:
                break
            lost = self.rng.poisson(self.rng.gamma(count, deaths))  # negative binomial, also for a count of 0
            loads = self.rng.poisson(self.rng.gamma(lost, reloads))
            wasted, away = self._lost(lost, seconds), (lost + loads) * wait
            self.free += count * seconds + wasted + lost * load + self._lost(loads, load) + away
            self.away += away
            self.wasted += wasted.sum(1)
            self.left -= count.sum(1)
        self.death = self.free + self.rng.exponential(1 / rate, self.free.shape)  # memoryless

    def finish(self) -> Array:
        """Simulate the remaining shards one by one, and return the time of each run's last commit."""
        runs, count = self.free.shape
        rows, wall = np.arange(runs), np.zeros(runs)
        # Earliest starts of pending shards, one slot per machine, since a machine loses one shard at a time.
        ready = np.where(np.arange(count) < self.left[:, None], 0.0, np.inf)
        self.left = np.maximum(0, self.left - count)
        while True:
            machine = self.free.argmin(1)
            shard = ready.argmin(1)
            death = self.death[rows, machine]
            begin = np.maximum(self.free[rows, machine], ready[rows, shard])
            end, active = begin + self.seconds, begin < np.inf
            if not active.any():
                return wall
            lost = active & (death < end)
            done = active & ~lost
            self.wasted[lost] += np.maximum(0.0, death - begin)[lost]
            wall[done] = end[done]
            restart = np.maximum(ready[rows, shard], death)
            ready[rows, shard] = np.where(lost, restart, np.where(self.left > 0, 0.0, np.inf))
            self.left -= done & (self.left > 0)
            self.free[rows, machine] = np.where(done, end, self.free[rows, machine])
            self._replace(rows[lost], machine[lost])

    def _replace(self, rows: Array, machines: Array) -> None:
        """Replace preempted machines, one per (row, machine) pair."""
        at = rows, machines
        self.away[at] += self.wait
        self.born[at] = self.death[at] + self.wait
        self.free[at] = self.born[at] + self.load
        self.death[at] = self.born[at] + self.rng.exponential(1 / self.rate, rows.shape)

    def _lost(self, times: Array, span: float) -> Array:
        """Sample the seconds lost in `times` preemptions, each within `span` seconds, from a normal approximation."""
        x = self.rate * span
        if x < 1e-3:
            mean, variance = span / 2, span**2 / 12
        else:
            mean = 1 / self.rate - span / math.expm1(x)
            variance = 1 / self.rate**2 - span**2 * math.exp(x) / math.expm1(x) ** 2
        drawn = times * mean + np.sqrt(times * variance) * self.rng.standard_normal(times.shape)
        return np.clip(drawn, 0.0, times * span)
