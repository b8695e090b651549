"""The budget of a dataset before a run."""

from __future__ import annotations

import pytest

from syncclip.synthesis.budget import Budget, BudgetError
from syncclip.synthesis.settings import CostSettings
from syncclip.workers.settings import Pool


def test_only_actors_with_a_shard_count_towards_the_budget() -> None:
    """64 actors at 36 USD per hour and 100 s per shard: 1 USD for each of the remaining shards."""
    budget = Budget(CostSettings(price=36.0, budget=2.5), Pool(64), hours=0.0, seconds=100.0)
    budget.check(98, 100)
    with pytest.raises(BudgetError, match="97 of 100 shards are committed"):
        budget.check(97, 100)


def test_a_gpu_share_is_billed_in_proportion() -> None:
    cost = CostSettings(price=36.0, budget=2.0)
    assert Budget(cost, Pool(1), hours=0.0, seconds=0.0).limit == pytest.approx(200.0)
    assert Budget(cost, Pool(1, num_gpus=0.5), hours=0.0, seconds=0.0).limit == pytest.approx(400.0)
