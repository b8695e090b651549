from __future__ import annotations

import pytest

from syncclip.core.text import counted


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (12345, "12,345 shards")]
)
def test_one_is_told_otherwise_than_many(count: int, told: str) -> None:
    assert counted(count, "shard") == told


def test_a_plural_of_its_own_is_used() -> None:
    assert [counted(count, "class", "classes") for count in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
