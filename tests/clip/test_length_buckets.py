"""Groups of texts of similar length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncclip.clip.length_buckets import SMALL_GROUP, of_like_length


@given(st.lists(st.integers(1, 30), min_size=1, max_size=200))
def test_groups_contain_each_text_once_in_order_of_length(lengths: list[int]) -> None:
    groups = of_like_length(lengths)
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in rows) for rows in groups]
    assert longest == sorted(longest) and all(len(rows) >= SMALL_GROUP for rows in groups[:-1])
    assert all(of_like_length([lengths[row] for row in rows]) == [[*range(len(rows))]] for rows in groups)
