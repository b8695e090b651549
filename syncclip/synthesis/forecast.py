"""How long a set takes, what it costs and what preemptions throw away: a simulation of the pool, before it starts.

Each actor stands on a machine that may be taken away at any moment (a Poisson process, as clouds tell of their spot
machines: so many an hour). A shard in flight is lost then and made again, by whoever is free first; another machine
comes after a while. All of that is simulated many times over, event by event; without preemptions it is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from syncclip.core.settings import UserError
from syncclip.synthesis.settings import CostSettings

if TYPE_CHECKING:
    from syncclip.synthesis.plan import Plan


Array = NDArray[Any]

RUNS = 200
"""Simulated runs behind a forecast: the bounds of its 90 % hold ten runs each."""

HARDEST = math.log(100)
"""Preemptions that one shard may expect. Beyond it fewer than one attempt in a hundred succeeds."""

LOAD = 60.0
"""Seconds to the first shard, where nobody says otherwise."""


class Pool(NamedTuple):
    """A pool of actors, a machine each. `least` machines are there at once, the others come after `wait` seconds."""

    least: int
    most: int
    preemptions: float = 0.0
    """Of a machine, an hour."""
    wait: float = 0.0
    load: float = 0.0


@dataclass(frozen=True)
class Outcomes:
    """What happened in each simulated run, shape (runs,)."""

    wall: Array
    """Seconds from the start to the last commit."""
    paid: Array
    """Seconds of all machines, from each one's coming to its end or the set's."""
    wasted: Array
    """Seconds of work on shards that were then lost."""


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


def forecast(plan: Plan, cost: CostSettings, least: int, most: int, num_gpus: float = 0.0) -> Forecast:
    """What the whole set of a plan takes at `cost.rate`; every shard counts as a full one.

    Args:
        least, most: actors of the pool.
        num_gpus: GPUs of an actor; 0 counts actors themselves.

    Raises:
        UserError: hardly any shard would live to its end.
    """
    assert cost.rate is not None
    shards, seconds = len(plan.shards()), min(plan.shard_size, plan.total) / cost.rate
    pool = Pool(least, most, cost.preemptions, cost.wait, LOAD if cost.load is None else cost.load)
    outcomes = simulate(shards, seconds, pool)
    quiet = simulate(shards, seconds, pool._replace(preemptions=0.0), runs=1)
    hours = _spread(outcomes.paid * (num_gpus or 1.0) / 3600)
    return Forecast(
        seconds,
        float(quiet.wall[0]),
        _spread(outcomes.wall),
        hours,
        None if cost.price is None else Spread(*(hour * cost.price for hour in hours)),
        _spread(outcomes.wasted * cost.rate),
        None if cost.image_bytes is None else cost.image_bytes * plan.total,
    )


def _spread(values: Array) -> Spread:
    low, high = np.quantile(values, [0.05, 0.95])
    return Spread(float(values.mean()), float(low), float(high))


def simulate(shards: int, seconds: float, pool: Pool, *, runs: int = RUNS, seed: int = 0) -> Outcomes:
    """Generate `shards` shards of `seconds` each on `pool`, `runs` times with different luck; a function of `seed`.

    Raises:
        UserError: hardly any shard would live to its end.
    """
    assert shards > 0 and seconds > 0 and 0 < pool.least <= pool.most and runs > 0
    if seconds * pool.preemptions / 3600 > HARDEST:
        raise UserError(
            f"a shard takes {seconds:,.0f} s of an actor, and machines live {3600 / pool.preemptions:,.0f} s on "
            "average, so hardly any shard would be finished; make synthesis.shard_size smaller"
        )
    machines = _Machines(min(shards, pool.most), pool, seconds, runs, seed)
    left = machines.generate_together(shards)
    wall = machines.generate_last(left)
    still = machines.came < wall[:, None]
    paid = machines.paid + ((wall[:, None] - machines.came) * still).sum(1)
    return Outcomes(wall, paid, machines.wasted)


class _Machines:
    """The machines of all runs, arrays of shape (runs, machines) in seconds since the start."""

    def __init__(self, count: int, pool: Pool, seconds: float, runs: int, seed: int) -> None:
        self.pool, self.seconds = pool, seconds
        self.rng = np.random.default_rng(seed)
        shape = (runs, count)
        self.came = np.zeros(shape) + np.where(np.arange(count) < pool.least, 0.0, pool.wait)
        self.free = self.came + pool.load
        """When the machine can begin its next shard."""
        self.death = self.came + self._lives(shape)
        self.paid, self.wasted = np.zeros(runs), np.zeros(runs)

    def _lives(self, shape: tuple[int, ...]) -> Array:
        if self.pool.preemptions == 0:
            return np.full(shape, np.inf)
        return self.rng.exponential(3600 / self.pool.preemptions, shape)

    def generate_together(self, shards: int) -> Array:
        """Make shards while there is one for whoever is free, so that machines are independent; what is left.

        Goes from one moment to a later one, up to which even machines that never die could not begin all that is left;
        between two of a machine's deaths its shards are counted, not generated one by one.
        """
        runs, count = self.free.shape
        left = np.full(runs, shards)
        while ((sure := left // count - 1) > 0).any():
            moment = (self.free.min(1) + np.maximum(0, sure) * self.seconds)[:, None]
            while True:
                until = np.minimum(self.death, moment)
                whole = np.floor(np.maximum(0.0, until - self.free) / self.seconds + 1e-9)
                left = left - whole.sum(1).astype(int)
                self.free += whole * self.seconds
                dying = self.death < moment
                if not dying.any():
                    break
                self.wasted += np.where(dying, np.maximum(0.0, self.death - self.free), 0.0).sum(1)
                self._replace(*dying.nonzero())
        return left

    def generate_last(self, left: Array) -> Array:
        """Make the last shards one by one, in the order in which they are begun; when each run's last was committed.

        A machine that finds no shard waits for one that another machine loses.
        """
        rows, left = np.arange(len(left)), left.copy()
        wall = np.zeros(len(left))
        lost = np.full(self.free.shape, np.inf)  # when a machine lost a shard that nobody has taken up again yet
        while True:
            one = self.free.argmin(1)
            free, death = self.free[rows, one], self.death[rows, one]
            own = np.isfinite(lost[rows, one])  # taken up first, so that no machine's place holds two
            source = np.where(own, one, lost.argmin(1))
            again = lost[rows, source]
            fresh = (left > 0) & (again > free)
            begin = np.where(fresh, free, np.maximum(free, again))
            busy = np.isfinite(begin)
            if not busy.any():
                return wall
            begun = busy & (death > begin)
            done, dies = begun & (death >= begin + self.seconds), busy & (death < begin + self.seconds)
            left -= begun & fresh
            taken = begun & ~fresh
            lost[rows[taken], source[taken]] = np.inf
            broken = begun & dies
            lost[rows[broken], one[broken]] = death[broken]
            self.wasted[broken] += (death - begin)[broken]
            self.free[rows[done], one[done]] = (begin + self.seconds)[done]
            wall[done] = np.maximum(wall, begin + self.seconds)[done]
            self._replace(rows[dies], one[dies])

    def _replace(self, run: Array, machine: Array) -> None:
        """Others in the place of the machines that die."""
        dead = run, machine
        np.add.at(self.paid, run, self.death[dead] - self.came[dead])
        self.came[dead] = self.death[dead] + self.pool.wait
        self.free[dead] = self.came[dead] + self.pool.load
        self.death[dead] = self.came[dead] + self._lives(run.shape)
