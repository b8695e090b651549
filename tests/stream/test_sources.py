"""Concatenated datasets."""

from __future__ import annotations

from syncclip.stream.sources import JoinedSet, MixedSource, joined
from tests.shards.sets import index_of, jpeg
from tests.stream.test_mixed import stored


def test_joined_datasets_are_concatenated() -> None:
    both = JoinedSet([stored(3, 2, 2), stored(5, 2, 1)])
    assert len(both) == 16
    assert both.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert both.rows_of(1).tolist() == [1, 4, 7, 12]
    assert both.rows_of(4).tolist() == [10, 15]
    rows = (0, 5, 6, 15)
    assert [index_of(both.image(row)) for row in rows] == [0, 5, 0, 9]
    assert [both.read(row) for row in rows] == [jpeg(index) for index in (0, 5, 0, 9)]
    assert both.name(6).endswith("/5-2-1-/00000.tar:000000000.jpg")
    assert joined([MixedSource(stored(3, 2, 2))]) is stored(3, 2, 2)
