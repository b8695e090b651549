"""The budget of a dataset: price x GPUs per actor x time for which its actors run, in all runs, as in the forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.synthesis.settings import CostSettings
from syncclip.workers.settings import Pool


class BudgetError(UserError):
    """Raised if the next shard would exceed the budget."""


@dataclass(frozen=True)
class Budget:
    """A dataset's budget and its cost at the start of a run."""

    cost: CostSettings
    pool: Pool
    hours: float
    """Hours billed for earlier runs; see `SynthesisStatus.hours`."""
    seconds: float
    """Expected seconds per shard; 0 if unknown."""
    committed: float = 0.0
    """See `SynthesisStatus.committed`."""

    @property
    def limit(self) -> float:
        """Time of all actors in seconds until the budget is exhausted."""
        if self.cost.budget is None or not self.cost.price:
            return math.inf
        return (self.cost.budget / self.cost.price - self.hours) / float(self.pool.billed_hours(1.0))

    def check(self, committed: int, shards: int) -> None:
        """Raise a BudgetError if not even the first shard can be paid for; the arguments are as in `error`."""
        if self.limit <= 0 or self.limit < min(self.pool.actors, shards - committed) * self.seconds:
            raise self.error(committed, shards)

    def error(self, committed: int, shards: int) -> BudgetError:
        """Return the error for a budget that ends after `committed` of the dataset's `shards`."""
        done = f"{committed:,} of {counted(shards, 'shard')} are committed"
        return BudgetError(
            f"budget of {self.cost.budget:g} {self.cost.currency} reached: {done}; raise synthesis.cost.budget to "
            "resume"
        )
