"""What became of each shard of a round. A module of its own: the actor that lives here should start without torch."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Ledger:
    """How often each shard was begun, and its report; a Ray actor beside the pool that outlives whoever draws."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()
        self.reports: dict[int, dict[str, Any]] = {}

    def begin(self, shard: int) -> tuple[int, dict[str, Any] | None]:
        """Note that a shard is begun: how often it has been now, and its report if it was ended before."""
        self.starts[shard] += 1
        return self.starts[shard], self.reports.get(shard)

    def end(self, shard: int, report: dict[str, Any]) -> None:
        """Keep the report of a shard, which its process may not live to hand over."""
        self.reports[shard] = report
