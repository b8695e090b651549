"""Counts as sentences name them."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """`1 shard`, `1,234 shards`; `many` where it isn't `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
