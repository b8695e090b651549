"""How long a set takes, what it costs and what preemptions throw away, before it starts.

Each actor runs on a machine of its own that may be taken away at any moment: a Poisson process, as clouds describe
their spot machines, so many an hour. A shard in flight is lost then and generated again; another machine comes after a
while. The forecast is a queue of shards, run up to a thousand times at random; without preemptions it is exact.
"""

from __future__ import annotations

import math
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
"""Random runs behind a forecast. There are fewer, down to a hundred, where more than a hundred machines average luck
out: the bounds of its 90 % leave out fifty runs on each side, or five."""

FEWEST, WORK, STEP = 20, 5e7, 4000.0
"""Least runs that a forecast is made of; looks at a machine that it may take, and what a step costs beside them."""

HARDEST = math.log(100)
"""Preemptions that one shard may expect. Beyond it fewer than one attempt in a hundred succeeds."""

NEVER = 1e-18
"""Preemptions a second where there are none."""

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
    """What the whole set of a plan takes at `cost.throughput`; every shard counts as a full one.

    Raises:
        UserError: hardly any shard would live to its end.
    """
    assert cost.throughput is not None
    shards, seconds = len(plan.shards()), min(plan.shard_size, plan.total) / cost.throughput
    machines = Machines(*pool.size, cost.preemptions, cost.wait, LOAD if cost.load is None else cost.load)
    quiet = simulate(shards, seconds, machines._replace(preemptions=0.0), runs=1)
    outcomes = simulate(shards, seconds, machines, runs=_affordable(shards, seconds, machines))
    hours = _spread(outcomes.paid * (pool.num_gpus or 1.0) / 3600)
    return Forecast(
        seconds,
        float(quiet.wall[0]),
        _spread(outcomes.wall),
        hours,
        None if cost.price is None else Spread(*(hour * cost.price for hour in hours)),
        _spread(outcomes.wasted * cost.throughput),
        None if cost.image_bytes is None else cost.image_bytes * plan.total,
    )


def _affordable(shards: int, seconds: float, machines: Machines) -> int:
    """Runs that take seconds.

    Raises:
        UserError: so many machines are taken away so often that not even `FEWEST` runs do.
    """
    count = min(shards, machines.most)
    rate = _refuse_short_lives(seconds, machines)
    tries = math.exp(rate * (seconds + machines.load))
    deviation = _per_shard(rate, seconds, machines)[1]
    steps = tries * min(shards, count * (2 + 3 * deviation * math.sqrt(shards / count)))  # those that `skip` leaves
    runs = min(RUNS, max(100, 100 * RUNS // machines.most), int((WORK / steps - STEP) / count))
    if runs < FEWEST:
        raise UserError(
            f"{count:,} machines that are taken away {machines.preemptions:g} times an hour can't be forecast; lower "
            "synthesis.actors or synthesis.cost.preemptions"
        )
    return runs


def _spread(values: Array) -> Spread:
    low, high = np.quantile(values, [0.05, 0.95])
    return Spread(float(values.mean()), float(low), float(high))


def simulate(shards: int, seconds: float, machines: Machines, *, runs: int = RUNS, seed: int = 0) -> Outcomes:
    """Generate `shards` shards of `seconds` each, `runs` times with different luck; a function of `seed`.

    Raises:
        UserError: hardly any shard would live to its end, or hardly any machine to its first.
    """
    assert shards > 0 and seconds > 0 and 0 < machines.least <= machines.most and runs > 0
    rate = _refuse_short_lives(seconds, machines)
    come = np.where(np.arange(min(shards, machines.most)) < machines.least, 0.0, machines.wait)
    queue = _Queue(shards, seconds, machines, rate, np.tile(come, (runs, 1)), np.random.default_rng(seed))
    queue.skip()
    wall = queue.finish()
    end = wall[:, None]
    away = queue.away - np.maximum(0.0, queue.born - end) + np.clip(end - queue.death, 0.0, machines.wait)
    return Outcomes(wall, (end - come - away).sum(1), queue.wasted)


def _refuse_short_lives(seconds: float, machines: Machines) -> float:
    """Preemptions of a machine in a second; refused where hardly any shard would live to its end."""
    rate = machines.preemptions / 3600 or NEVER
    if seconds * rate > HARDEST:
        raise UserError(
            f"a shard takes {seconds:,.0f} s of an actor, and machines live {1 / rate:,.0f} s on average, so hardly "
            "any shard would be finished; make synthesis.shard_size smaller"
        )
    if (seconds + machines.load) * rate > HARDEST:
        raise UserError(
            f"a machine loads for {machines.load:,.0f} s, and lives {1 / rate:,.0f} s on average, so hardly any shard "
            "would be begun; correct synthesis.cost.load or synthesis.cost.preemptions"
        )
    return rate


def _per_shard(rate: float, seconds: float, machines: Machines) -> tuple[float, float]:
    """Seconds of a machine for one shard with all that is lost: their mean, and their deviation relative to it."""
    deaths, reloads = math.expm1(rate * seconds), math.expm1(rate * machines.load)
    mean = deaths * (1 / rate + machines.wait + reloads * (machines.wait + 1 / rate))
    return mean, 0.0 if rate == NEVER else (1 - seconds / mean) * math.sqrt(1 + 2 / deaths)


class _Queue:
    """All runs at once. Arrays have shape (runs, machines) or (runs,); times are in seconds."""

    def __init__(
        self, shards: int, seconds: float, machines: Machines, rate: float, come: Array, rng: np.random.Generator
    ) -> None:
        self.seconds, self.wait, self.load, self.rate, self.rng = seconds, machines.wait, machines.load, rate, rng
        self.left = np.full(len(come), shards)  # shards that nobody has begun
        self.wasted = np.zeros(len(come))
        self.away = np.zeros(come.shape)  # the time until replacements came
        self.born = come
        self.free = come + machines.load  # for the next shard
        self.death = come + rng.exponential(1 / rate, come.shape)

    def skip(self) -> None:
        """Let each machine generate the shards that it will get almost surely, by the laws of sums.

        How long it needs for them depends on no other machine, as long as there are shards that nobody has begun. What
        is left over is three standard deviations of a machine's share.
        """
        rate, seconds, wait, load = self.rate, self.seconds, self.wait, self.load
        while (broken := self.death < self.free).any():
            self._replace(*broken.nonzero())
        deaths, reloads = math.expm1(rate * seconds), math.expm1(rate * load)  # of one shard, of one replacement
        mean, deviation = _per_shard(rate, seconds, Machines(1, 1, 0.0, wait, load))
        while True:
            ends = (self.left[:, None] * mean + np.sort(self.free).cumsum(1)) / np.arange(1, self.free.shape[1] + 1)
            share = np.maximum(0.0, (ends.min(1, keepdims=True) - self.free) / mean)
            sure = np.maximum(0.0, np.floor(share - 3 * deviation * np.sqrt(share) - 1)).astype(int)
            if sure.mean() < 1:
                break
            lost = self.rng.poisson(self.rng.gamma(sure, deaths))  # a negative binomial that may be of no shards
            loads = self.rng.poisson(self.rng.gamma(lost, reloads))
            wasted, away = self._lost(lost, seconds), (lost + loads) * wait
            self.free += sure * seconds + wasted + lost * load + self._lost(loads, load) + away
            self.away += away
            self.wasted += wasted.sum(1)
            self.left -= sure.sum(1)
        self.death = self.free + self.rng.exponential(1 / rate, self.free.shape)  # what lives does not age

    def finish(self) -> Array:
        """Generate the shards that are left one by one; returns the time of each run's last commit."""
        runs, count = self.free.shape
        rows, wall = np.arange(runs), np.zeros(runs)
        # When a shard can be begun. A place for each machine is enough: no more are lost and not yet begun again.
        ready = np.where(np.arange(count) < self.left[:, None], 0.0, np.inf)
        self.left = np.maximum(0, self.left - count)
        while True:
            machine = self.free.argmin(1)
            shard = ready.argmin(1)
            death = self.death[rows, machine]
            begin = np.maximum(self.free[rows, machine], ready[rows, shard])
            end, going = begin + self.seconds, begin < np.inf
            if not going.any():
                return wall
            lost = going & (death < end)
            done = going & ~lost
            self.wasted[lost] += np.maximum(0.0, death - begin)[lost]
            wall[done] = end[done]
            again = np.maximum(ready[rows, shard], death)
            ready[rows, shard] = np.where(lost, again, np.where(self.left > 0, 0.0, np.inf))
            self.left -= done & (self.left > 0)
            self.free[rows, machine] = np.where(done, end, self.free[rows, machine])
            self._replace(rows[lost], machine[lost])

    def _replace(self, rows: Array, machines: Array) -> None:
        """Take these machines of these runs away, each at its time, and let others come."""
        at = rows, machines
        self.away[at] += self.wait
        self.born[at] = self.death[at] + self.wait
        self.free[at] = self.born[at] + self.load
        self.death[at] = self.born[at] + self.rng.exponential(1 / self.rate, rows.shape)

    def _lost(self, times: Array, span: float) -> Array:
        """Seconds lost by so many preemptions that each came within `span` seconds: their sum, taken as normal."""
        x = self.rate * span
        if x < 1e-3:
            mean, variance = span / 2, span**2 / 12
        else:
            mean = 1 / self.rate - span / math.expm1(x)
            variance = 1 / self.rate**2 - span**2 * math.exp(x) / math.expm1(x) ** 2
        drawn = times * mean + np.sqrt(times * variance) * self.rng.standard_normal(times.shape)
        return np.clip(drawn, 0.0, times * span)
