"""Several sets as one, how often each is shown, and samples of several synthetic ones (of one: test_stream.py)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncclip.core import order
from syncclip.core.settings import UserError
from syncclip.stream.sources import JoinedSet, MixedSource, MovingWindow, RealEpochs, SyntheticSampler, joined
from tests.shards.sets import index_of, jpeg
from tests.stream.test_mixed import stored

FIRST, SECOND = 30, 10  # images of the two sets


def partners(
    weight: float = 1.0, width: int | None = None, seed: int = 1, **lacking: tuple[int, ...]
) -> SyntheticSampler:
    sets = [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1, **lacking), weight)]
    return SyntheticSampler(sets, seed=seed, width=width, drawn=8)


def draw(source: SyntheticSampler, labels: list[int], step: int) -> list[int]:
    return source.sample(np.array(labels), order.SEEN, 0, step, step).tolist()


@pytest.mark.parametrize(("weight", "share"), [(1.0, 1 / 2), (3.0, 3 / 4), (0.25, 1 / 5)])
def test_a_weight_is_the_chance_of_a_set(weight: float, share: float) -> None:
    source = partners(weight)
    rows = [row for step in range(300) for row in draw(source, [0, 1, 2, 3, 4, 0, 1, 2], step)]
    second = sum(row >= FIRST for row in rows) / len(rows)
    assert abs(second - share) < 3 * np.sqrt(share * (1 - share) / len(rows))
    of_second = Counter(row for row in rows if row >= FIRST)
    assert len(of_second) == SECOND


@settings(max_examples=40)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 500), width=st.sampled_from([None, 1, 2]))
def test_partners_show_the_labels_that_they_are_drawn_for(seed: int, step: int, width: int | None) -> None:
    source, labels = partners(2.0, width, seed), [4, 0, 0, 2, 3, 1, 4, 2]
    rows = draw(source, labels, step)
    assert [row % 5 for row in rows] == labels  # both sets are index-major, and the first ends with a whole round
    assert rows == draw(partners(2.0, width, seed), labels, step)
    for window, images, start in zip(source.windows, (stored(5, 6, 2), stored(5, 2, 1)), (0, FIRST), strict=True):
        inside = [row - start for row in rows if start <= row < start + len(images)]
        assert set(images.samples.shard[inside].tolist()) <= set(window.shards(step))


def test_without_a_window_the_rows_of_a_class_are_not_copied() -> None:
    images = stored(5, 6, 2)
    window = MovingWindow(images, width=None, seed=1, drawn=8)
    for rows in window.choices(np.array([0, 4, 4]), 3):
        assert np.shares_memory(rows, images.samples.by_label)


def test_a_class_that_only_one_set_shows_comes_from_that_one() -> None:
    source = partners(1000.0, without=(3, 8))
    assert all(row < FIRST for step in range(50) for row in draw(source, [3] * 8, step))
    assert all(row >= FIRST for step in range(20) for row in draw(source, [1] * 4, step))


def test_windows_of_two_sets_move_on_their_own() -> None:
    sets = [MixedSource(stored(5, 6, 1)), MixedSource(stored(5, 6, 1))]
    source = SyntheticSampler(sets, seed=1, width=1, drawn=2)
    assert any(source.windows[0].shards(place) != source.windows[1].shards(place) for place in range(20))


def test_rows_of_the_second_set_follow_those_of_the_first() -> None:
    both = JoinedSet([stored(3, 2, 2), stored(5, 2, 1)])
    assert len(both) == 16
    assert both.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert both.rows_of(1).tolist() == [1, 4, 7, 12]
    assert both.rows_of(4).tolist() == [10, 15]
    rows = (0, 5, 6, 15)
    assert [index_of(both.image(row)) for row in rows] == [0, 5, 0, 9]
    assert [both.read(row) for row in rows] == [jpeg(index) for index in (0, 5, 0, 9)]
    assert both.name(6).endswith("/5-2-1-/00000.tar:000000000.jpg")


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
    with pytest.raises(UserError, match="no real image to train on in dataset 2 of 2"):
        RealEpochs([MixedSource(stored(3, 4, 4)), MixedSource(stored(3, 4, 4), rows=[])], seed=1)
