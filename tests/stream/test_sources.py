"""Mixing of several datasets; test_mixed.py tests single ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.stream import order
from syncclip.stream.sources import JoinedSet, MixedSource, MovingWindow, RealEpochs, SyntheticSampler, joined
from tests.shards.sets import index_of, jpeg
from tests.stream.test_mixed import stored

FIRST, SECOND = 30, 10
"""Numbers of images of the two synthetic datasets."""


def sampler(
    weight: float = 1.0, width: int | None = None, seed: int = 1, **without: tuple[int, ...]
) -> SyntheticSampler:
    """A sampler of two datasets, of which the second has `weight`."""
    sources = [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1, **without), weight)]
    return SyntheticSampler(sources, seed=seed, width=width, sampled=8)


def sample(source: SyntheticSampler, labels: list[int], step: int) -> list[int]:
    return source.sample(np.array(labels), order.SEEN, 0, step, step).tolist()


@pytest.mark.parametrize(("weight", "probability"), [(1.0, 1 / 2), (3.0, 3 / 4), (0.25, 1 / 5)])
def test_datasets_are_sampled_by_weight(weight: float, probability: float) -> None:
    source = sampler(weight)
    rows = [row for step in range(300) for row in sample(source, [0, 1, 2, 3, 4, 0, 1, 2], step)]
    second = [row for row in rows if row >= FIRST]
    assert abs(len(second) / len(rows) - probability) < 3 * np.sqrt(probability * (1 - probability) / len(rows))
    assert len(set(second)) == SECOND


@settings(max_examples=40)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 500), width=st.sampled_from([None, 1, 2]))
def test_sampled_images_have_the_given_labels_and_are_in_the_windows(seed: int, step: int, width: int | None) -> None:
    source, labels = sampler(2.0, width, seed), [4, 0, 0, 2, 3, 1, 4, 2]
    rows = sample(source, labels, step)
    assert [row % 5 for row in rows] == labels  # both datasets are index-major
    assert rows == sample(sampler(2.0, width, seed), labels, step)
    for window, images, start in zip(source.windows, (stored(5, 6, 2), stored(5, 2, 1)), (0, FIRST), strict=True):
        own_rows = [row - start for row in rows if start <= row < start + len(images)]
        assert set(images.samples.shard[own_rows].tolist()) <= set(window.shards(step))


def test_without_a_window_the_rows_of_a_class_are_a_view() -> None:
    images = stored(5, 6, 2)
    window = MovingWindow(images, width=None, seed=1, sampled=8)
    for rows in window.choices(np.array([0, 4, 4]), 3):
        assert np.shares_memory(rows, images.samples.by_label)


def test_a_dataset_without_images_of_a_class_is_not_sampled_for_it() -> None:
    source = sampler(1000.0, without=(3, 8))
    assert all(row < FIRST for step in range(50) for row in sample(source, [3] * 8, step))
    assert all(row >= FIRST for step in range(20) for row in sample(source, [1] * 4, step))


def test_the_windows_of_two_datasets_are_independent() -> None:
    sources = [MixedSource(stored(5, 6, 1)), MixedSource(stored(5, 6, 1))]
    first, second = SyntheticSampler(sources, seed=1, width=1, sampled=2).windows
    assert any(first.shards(step) != second.shards(step) for step in range(20))


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


@given(weight=st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0]), seed=st.integers(0, 2**40), first=st.integers(0, 20))
def test_a_real_image_occurs_as_often_as_its_weight(weight: float, seed: int, first: int) -> None:
    epochs = RealEpochs([MixedSource(stored(3, 4, 4), rows=[0, 5]), MixedSource(stored(5, 2, 1), weight)], seed)
    assert epochs.rows.tolist() == [0, 5, *range(12, 22)]
    rows_of_epochs = [epochs.rows_of_epoch(epoch) for epoch in range(first, first + 4)]
    assert {len(rows) for rows in rows_of_epochs} == {len(epochs)} == {2 + round(10 * weight)}
    counts = Counter(np.concatenate(rows_of_epochs).tolist())
    assert counts[0] == counts[5] == 4
    weighted = [counts[row] for row in range(12, 22)]
    assert sum(weighted) == 4 * round(10 * weight)
    assert max(weighted) - min(weighted) <= (0 if weight == 1 else 2)  # passes may begin and end within these epochs


def test_a_dataset_without_real_images_is_reported_by_its_number() -> None:
    with pytest.raises(UserError, match="there are no real training images in dataset 2 of 2"):
        RealEpochs([MixedSource(stored(3, 4, 4)), MixedSource(stored(3, 4, 4), rows=[])], seed=1)
