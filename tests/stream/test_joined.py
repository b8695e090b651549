"""Several sets as one, and how often each is shown."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.stream.sampler import JoinedSet, MixedSource, RealEpochs, joined
from tests.shards.sets import index_of
from tests.stream.test_stream import stored


def test_rows_of_the_second_set_follow_those_of_the_first() -> None:
    both = JoinedSet([stored(3, 2, 2), stored(5, 2, 1)])
    assert len(both) == 16
    assert both.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert both.rows_of(1).tolist() == [1, 4, 7, 12]
    assert both.rows_of(4).tolist() == [10, 15]
    assert [index_of(both.image(row)) for row in (0, 5, 6, 15)] == [0, 5, 0, 9]


def test_one_set_is_itself() -> None:
    assert joined([MixedSource(stored(3, 2, 2))]) is stored(3, 2, 2)


@given(epoch=st.integers(0, 50))
def test_at_weight_one_each_chosen_image_comes_once_an_epoch(epoch: int) -> None:
    epochs = RealEpochs([MixedSource(stored(3, 4, 4), rows=[0, 5]), MixedSource(stored(5, 2, 1))], seed=1)
    assert epochs.shown(epoch).tolist() == [0, 5, *range(12, 22)] == epochs.rows.tolist()


@given(weight=st.sampled_from([0.25, 0.5, 1.5, 2.0, 3.0]), seed=st.integers(0, 2**40), first=st.integers(0, 20))
def test_a_weight_is_how_often_an_epoch_shows_a_image(weight: float, seed: int, first: int) -> None:
    epochs = RealEpochs([MixedSource(stored(3, 4, 4)), MixedSource(stored(5, 2, 1), weight)], seed)
    shown = [epochs.shown(epoch) for epoch in range(first, first + 4)]
    assert {len(rows) for rows in shown} == {len(epochs)} == {12 + round(10 * weight)}
    counts = Counter(np.concatenate(shown).tolist())
    assert all(counts[row] == 4 for row in range(12))
    often = [counts[row] for row in range(12, 22)]
    assert sum(often) == 4 * round(10 * weight)
    assert max(often) - min(often) <= 2  # a sweep that began before and one that ends after


def test_a_set_without_a_image_is_named() -> None:
    with pytest.raises(UserError, match="no real image to train on in set 2 of 2"):
        RealEpochs([MixedSource(stored(3, 4, 4)), MixedSource(stored(3, 4, 4), rows=[])], seed=1)
