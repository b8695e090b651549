"""How often each shard was begun. A module of its own: the actor that lives here should start without torch."""

from __future__ import annotations

from collections import Counter


class Ledger:
    """Counts how often each shard was begun; a Ray actor beside the pool, which outlives the processes that draw."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Note that a shard is begun; how often it has been now, this time included."""
        self.starts[shard] += 1
        return self.starts[shard]
